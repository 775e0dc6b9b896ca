"""Whole generations composed from timed steps: each kind of step of a pass is run and timed, and counts as often as it occurs.

For sizes at which a pass takes too long to be run many times. Nothing is left out: what is timed is a step of the sampler with all that
belongs to it. What is assumed is that two steps of a kind take the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from ..core.rows import Layout
from ..core.schedule import first_step
from ..cost.macs import count_macs
from ..engine.thresholds import thresholds_for
from ..methods import GuidanceSkip, TGate
from .inputs import UNetInputs
from .limits import LIMITS
from .measuring import timed
from .step_caches import DEEPCACHE_INTERVAL
from .variants import Variant
from .workloads import Sampling

# Of the noise schedules that these models were trained with.
LAST_TIMESTEP = 999.0
# Peers whose steps are all of one kind.
ONE_KIND = ("tomesd", *LIMITS)


@dataclass(frozen=True)
class Kind:
    """Steps that cost the same. step: the one of them, from 0, that is run. count: how many there are."""

    step: int
    count: int


def kinds_of(variant: Variant, steps: int) -> list[Kind]:
    """The kinds of steps in a pass of ``steps`` under ``variant``, in the order of their first; every step one of its own where what a
    step costs depends on more than its place."""
    if variant.peer == "deepcache":
        whole = -(-steps // DEEPCACHE_INTERVAL)
        return [Kind(0, whole)] + ([Kind(1, steps - whole)] if steps > whole else [])
    every_step = [Kind(step, 1) for step in range(steps)]
    looking_up = [method for method in variant.methods if isinstance(method, GuidanceSkip) and method.when == "after" and method.every]
    alone = looking_up[0] if len(looking_up) == 1 and not any(isinstance(method, TGate) for method in variant.methods) else None
    edges, irregular = edges_of([method for method in variant.methods if method is not alone], steps)
    if irregular or variant.peer not in (None, *ONE_KIND):
        return every_step
    if alone is None:
        return [Kind(first, end - first) for first, end in pairwise(edges)]
    guided = alone.guided_steps(steps)
    kinds = [kind for first, end in pairwise(edges) for kind in _kinds_between(first, end, guided)]
    # Whether a step is guided depends on those that ran before it, and now some are left out.
    run = [kind.step for kind in kinds]
    return kinds if alone.guided_steps(steps, run) == [guided[step] for step in run] else every_step


def _kinds_between(first: int, end: int, guided: Sequence[bool]) -> list[Kind]:
    """Steps ``first`` to ``end``, where nothing else begins or ends: the guided ones and the others. Where there are both, a guided one is
    run with the other that follows it; where none follows, every step is one of its own."""
    count = sum(guided[first:end])
    if count in (0, end - first):
        # A direction that is kept from the next step on is this part's last step's.
        leads = count and end < len(guided) and not guided[end]
        return [Kind(end - 1 if leads else first, end - first)]
    before = next((step for step in range(first, end - 1) if guided[step] and not guided[step + 1]), None)
    if before is None:
        return [Kind(step, 1) for step in range(first, end)]
    return [Kind(before, count), Kind(before + 1, end - first - count)]


def edges_of(methods: Iterable[Any], steps: int) -> tuple[list[int], bool]:
    """The steps in which something begins or ends, ``steps`` itself among them, and whether steps between them differ all the same."""
    edges, irregular = {0, steps}, False
    for method in methods:
        for fraction in getattr(method, "window", ()):
            edges.add(first_step(fraction, steps))
        irregular |= getattr(method, "plan_every", 1) > 1
        if isinstance(method, TGate):
            gate = method.gate_step if method.gate_step is not None else max(1, first_step(method.gate, steps))
            edges |= {gate - 1, gate} if gate < steps else set()
            irregular |= method.sp_interval > 1 or method.fi_interval > 1
        elif isinstance(method, GuidanceSkip):
            edges.add(first_step(method.after, steps))
            irregular |= method.when != "after" or method.every > 0
    return sorted(edge for edge in edges if edge <= steps), irregular


class Composer:
    """Times passes of ``steps`` in ``sampling`` by their kinds of steps."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self.seconds_by_step: dict[str, list[dict[str, Any]]] = {}

    def seconds(self, variant: Variant, accelerator: Any) -> float:
        """Seconds of a whole pass under ``variant``, composed."""
        kinds = kinds_of(variant, self._sampling.steps)
        kept = self.seconds_by_step.setdefault(variant.name, [{"step": kind.step, "count": kind.count, "seconds": []} for kind in kinds])
        total = 0.0
        for kind, record in zip(kinds, kept):
            latents = self._sampling.begin()
            spent = timed(partial(self._sampling.step, accelerator, kind.step, latents))
            record["seconds"].append(spent)
            total += spent * kind.count
        return total


def macs_of_pass(unet: nn.Module, size: int, batch: int, variant: Variant, steps: int, guided: bool, device: str = "cpu") -> float | None:
    """Multiply-adds of the U-Net calls of a whole pass under ``variant``, relative to a plain one.

    unet: on the meta device, where nothing is computed; what ``auto`` decides, it decides for ``device``. None for what cannot be counted
    there (what a step costs depends on values).
    """
    if variant.auto:
        variant = replace(variant, auto=thresholds_for(torch.device(device))[0])
    inputs = UNetInputs(unet, size, batch, torch.float32, "meta")
    plain = count_macs(unet, partial(inputs, unet)).total
    total = 0
    try:
        with variant.on(unet) as accelerator:
            for kind in kinds_of(variant, steps):
                if accelerator is not None and variant.at is None:
                    accelerator.step(kind.step, steps, Layout.guided(batch) if guided else None)
                timestep = torch.tensor(LAST_TIMESTEP * (1 - kind.step / steps))
                total += kind.count * count_macs(unet, partial(inputs, unet, timestep=timestep)).total
            failed = accelerator is not None and any(method["failed"] for method in accelerator.report().as_dict()["methods"])
    except Exception:
        return None
    return None if failed else total / (plain * steps)
