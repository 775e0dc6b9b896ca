"""Whole generations composed from timed steps: each kind of step of a pass is run and timed, and counts as often as it occurs.

For sizes at which a pass takes too long to be run many times. Nothing is left out: what is timed is a step of the sampler with all that
belongs to it. What is assumed is that two steps of a kind take the same time. Where steps are forecast there are no such kinds: which ones
run is decided by those before them, so such passes have to be run.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, product
from typing import Any

import torch
from torch import nn

from ..core.method import Method
from ..core.rows import Layout
from ..core.samplers import sampler_named
from ..cost.macs import count_macs
from ..engine.thresholds import thresholds_for
from .errors import CommandError
from .inputs import UNetInputs
from .lab import PEERS
from .measuring import timed
from .variants import Variant
from .workloads import SAMPLER, Sampling

# Of the noise schedules that these models were trained with.
LAST_TIMESTEP = 999.0
# How many steps of a kind, and choices of steps, are looked at.
MOST_CANDIDATES, MOST_TRIED = 6, 2000


@dataclass(frozen=True)
class AlikeSteps:
    """Steps that cost the same. step: the one of them, from 0, that is run. count: how many there are."""

    step: int
    count: int


def kinds_of(variant: Variant, steps: int) -> list[AlikeSteps]:
    """The kinds of steps in a pass of ``steps`` under ``variant``, in the order in which they are run; every step one of its own where what
    a step costs depends on more than its place."""
    every_step = [AlikeSteps(step, 1) for step in range(steps)]
    if variant.peer:
        kinds = PEERS[variant.peer].kinds
        return [AlikeSteps(*kind) for kind in kinds(steps)] if kinds else every_step
    costs = costs_of(variant.methods, steps)
    if costs is None:
        return every_step
    alike: dict[Hashable, list[int]] = {}
    for step, cost in enumerate(costs):
        alike.setdefault(cost, []).append(step)
    # What a step does may depend on those that ran before it, and now some are left out: such steps are taken that it stays the same.
    for chosen in islice(product(*(_candidates(members, steps) for members in alike.values())), MOST_TRIED):
        run = sorted(chosen)
        if costs_of(variant.methods, steps, run) == [costs[step] for step in run]:
            counts = dict(zip(chosen, map(len, alike.values())))
            return [AlikeSteps(step, counts[step]) for step in run]
    return every_step


def costs_of(methods: Sequence[Method], steps: int, run: Sequence[int] | None = None) -> list[Hashable] | None:
    """For each step of a pass of ``steps`` what its cost depends on; None where that is more than is known beforehand. run: the steps that
    are run, by default all; the list is of these."""
    costs = [method.schedule(steps, run=run).costs for method in methods]
    count = steps if run is None else len(run)
    return None if any(of_one is None for of_one in costs) else [tuple(of_one[at] for of_one in costs) for at in range(count)]


def _candidates(members: Sequence[int], steps: int) -> list[int]:
    """Steps of one kind that may stand for all: the first, and those where another kind begins or ended."""
    inside = set(members)
    at_border = [step for step in members if step + 1 not in inside or step - 1 not in inside]
    return list(dict.fromkeys([members[0], *at_border]))[:MOST_CANDIDATES]


def is_forecast(methods: Sequence[Method], steps: int) -> bool:
    """Whether ``methods`` may forecast steps of a pass of ``steps`` of `Sampling`."""
    return any(method.forecasts(steps, sampler_named(SAMPLER)) for method in methods)


def edges_of(methods: Sequence[Method], steps: int) -> list[int]:
    """The steps in which something begins or ends, 0 and ``steps`` among them."""
    edges = {0, steps}.union(*(method.schedule(steps).all_edges for method in methods))
    return sorted(edge for edge in edges if edge <= steps)


class Composer:
    """Times passes of ``steps`` in ``sampling`` by their kinds of steps."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self.seconds_by_step: dict[str, list[dict[str, Any]]] = {}

    def seconds(self, variant: Variant, accelerator: Any) -> float:
        """Seconds of a whole pass under ``variant``, composed. CommandError where it forecasts steps."""
        if is_forecast(variant.methods, self._sampling.steps):
            raise CommandError("steps are forecast from those before them, so none can be timed alone; take --whole without --compose")
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
    if is_forecast(variant.methods, steps):
        return None
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
