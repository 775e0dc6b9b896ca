"""`info MODEL`: where a U-Net's attention is, what one call of it multiplies, and what is left of that with each preset."""

from __future__ import annotations

import argparse
import json
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..api import accelerated
from ..core.method import CALL
from ..core.rows import Layout
from ..core.sites import find_unet
from ..cost.macs import KINDS, Count, count_macs
from ..settings.model_families import family_of
from ..settings.presets import PRESETS
from .architectures import ARCHITECTURES, build_unet
from .composing import costs_of, edges_of, kinds_of
from .errors import CommandError
from .inputs import UNetInputs, knows
from .models import open_pipeline, refuse_config
from .outputs import prepare_file
from .variants import Variant, parse_variant
from .workloads import SAMPLER

GIGA = 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help=f"{', '.join(ARCHITECTURES)}, a diffusers folder or a .safetensors checkpoint (default: the sample model)",
    )
    parser.add_argument("--config", type=Path, help="with a checkpoint: a diffusers folder of the same kind of model")
    parser.add_argument("--size", type=int, nargs="+", default=[512], help="pixels a side, multiples of 8 (default: 512)")
    parser.add_argument("--batch", type=int, default=2, help="rows of a U-Net call (default: 2, one guided picture)")
    parser.add_argument(
        "--steps", type=int, default=25, help="sampling steps, of Euler, over which the work is averaged (default: %(default)s)"
    )
    parser.add_argument(
        "--variants", nargs="+", default=list(PRESETS), metavar="VARIANT", help="presets and methods, as for bench (default: all presets)"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers there")


def run(args: argparse.Namespace) -> int:
    for size in args.size:
        if size < 64 or size % 8:
            raise CommandError(f"--size is {size}; it must be a multiple of 8 from 64 on.")
    for name, most in (("batch", 1024), ("steps", 1000)):
        if not 1 <= getattr(args, name) <= most:
            raise CommandError(f"--{name} is {getattr(args, name)}; it must be a whole number from 1 to {most}.")
    prepare_file("--json", args.json)
    unet, what = _open(args)
    if not knows(unet):
        raise CommandError(f"MODEL is a {type(unet).__name__}; info counts U-Nets alone, so use bench --whole or quality.")
    family = family_of(unet, args.steps)
    variants = [parse_variant(text, family) for text in dict.fromkeys(args.variants)]
    for variant in variants:
        if not variant.methods or variant.at is not None:
            raise CommandError(f"variant is {variant.name!r}; it must be a preset ({', '.join(PRESETS)}) or methods, for a whole pass.")
    result: dict[str, Any] = {"model": what, "family": family, "batch": args.batch, "steps": args.steps, "sizes": {}}
    told = f"Passes of {args.steps} steps of {SAMPLER}; methods act at any size."
    print(f"{what}; family {family}; {args.batch} rows to a U-Net call. {told}")
    for size in dict.fromkeys(args.size):
        inputs = UNetInputs(unet, size, args.batch, torch.float32, "meta")
        plain = count_macs(unet, partial(inputs, unet))
        passes = {variant.name: whole_pass(unet, inputs, variant, args.steps) for variant in variants}
        print(f"\n{size}x{size} pixels\n\n{levels_table(plain)}\n\n{kinds_table(plain, args.batch)}\n\n{passes_table(plain, passes)}")
        result["sizes"][str(size)] = _as_data(plain, passes)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def _open(args: argparse.Namespace) -> tuple[nn.Module, str]:
    """The U-Net on the meta device, where nothing is computed, and a line about it."""
    if args.model in ARCHITECTURES:
        refuse_config(args.config, "MODEL")
        return build_unet(args.model, "diffusers", device="meta"), f"A U-Net of {args.model}'s shape"
    path = None if args.model is None else Path(args.model)
    if path is not None and not path.exists():
        raise CommandError(f"MODEL is {args.model!r}; it must be one of {', '.join(ARCHITECTURES)}, a folder or a .safetensors file.")
    pipeline, what = open_pipeline(path, args.config, "cpu", torch.float32, "MODEL")
    return find_unet(pipeline).to("meta"), f"The U-Net of {what}"


@dataclass(frozen=True)
class Phase:
    """Steps ``first`` to ``last`` of a pass, from 0, in which the same methods act, and what each multiplies where it runs.

    served: in about how many of them the whole call is left out.
    """

    first: int
    last: int
    counts: list[Count]
    served: int = 0

    @property
    def steps(self) -> int:
        return self.last - self.first + 1

    def mean(self, kind: str | None = None) -> float:
        """Multiply-adds of one U-Net call of this phase, of one kind or of all."""
        return sum(count.macs[kind] if kind else count.total for count in self.counts) / len(self.counts)


def whole_pass(unet: nn.Module, inputs: UNetInputs, variant: Variant, steps: int) -> list[Phase]:
    """The phases of a pass of ``steps`` under ``variant``, counted.

    A step of each kind is counted; each step where they are not known to cost the same (plans are kept for some). Two rows are a guided
    picture. Whole calls that are forecast are those of a usual picture with the sampler `SAMPLER`; no value is computed that could decide.
    """
    acting = [method for method in variant.methods if not method.stands_aside(variant.methods, steps, SAMPLER)]
    of_calls = [method.schedule(steps, sampler=SAMPLER).kinds for method in acting if method.declaration.acts_on == CALL]
    served = [any(kinds[step] for kinds in of_calls) for step in range(steps)]
    inside = [method for method in acting if method.declaration.acts_on != CALL]
    edges, costs = edges_of(inside, steps), costs_of(inside, steps)
    rows = Layout.guided(inputs.batch) if inputs.batch % 2 == 0 else None
    by_cost: dict[Hashable, Count] = {}
    with accelerated(unet, *inside, auto=False) as accelerator:
        # Not the first step of each phase: what a step does may depend on those that ran before it.
        for kind in kinds_of(replace(variant, methods=tuple(inside)), steps):
            accelerator.step(kind.step, steps, rows)
            by_cost[costs[kind.step] if costs else kind.step] = count_macs(unet, partial(inputs, unet))
    counts = [by_cost[costs[step] if costs else step] for step in range(steps)]
    phases = [Phase(first, end - 1, counts[first:end], sum(served[first:end])) for first, end in pairwise(edges)]
    report = accelerator.report().as_dict()
    failed = next((method["failed"] for method in report["methods"] if method["failed"]), None)
    if failed:
        raise CommandError(f"variant {variant.name!r} could not be counted: {failed}.")
    return phases


def average(phases: list[Phase]) -> float:
    """Multiply-adds of a step, averaged over the pass; a step whose call is left out has none."""
    return sum(phase.mean() * (phase.steps - phase.served) for phase in phases) / sum(phase.steps for phase in phases)


def levels_table(count: Count) -> str:
    lines = ["| attention at | blocks | grid | tokens | channels |", "| --- | --- | --- | --- | --- |"]
    for level in count.levels:
        h, w = level.grid
        lines.append(f"| 1/{2**level.level} of the latent | {level.blocks} | {h}x{w} | {h * w} | {level.channels} |")
    return "\n".join(lines)


def kinds_table(count: Count, rows: int) -> str:
    lines = ["| one plain U-Net call | GMAC | GMAC a row | share |", "| --- | --- | --- | --- |"]
    for kind, macs in [*((kind, count.macs[kind]) for kind in KINDS if count.macs[kind]), ("total", count.total)]:
        lines.append(f"| {kind} | {macs / GIGA:.1f} | {macs / rows / GIGA:.1f} | {macs / count.total:.0%} |")
    return "\n".join(lines)


def passes_table(plain: Count, passes: dict[str, list[Phase]]) -> str:
    lines = ["| variant | steps | GMAC a call | of plain | matching |", "| --- | --- | --- | --- | --- |"]
    for name, phases in passes.items():
        for phase in phases:
            lines.append(
                f"| {name} | {phase.first + 1} to {phase.last + 1} | {phase.mean() / GIGA:.1f} | {phase.mean() / plain.total:.1%} "
                f"| {phase.mean('matching') / plain.total:.1%} |"
            )
        steps, served = (sum(getattr(phase, what) for phase in phases) for what in ("steps", "served"))
        told = f"average, about {steps - served} of {steps} run" if served else "average"
        lines.append(f"| {name} | {told} | {average(phases) / GIGA:.1f} | {average(phases) / plain.total:.1%} | |")
    return "\n".join(lines)


def _as_data(plain: Count, passes: dict[str, list[Phase]]) -> dict[str, Any]:
    return {
        "levels": [vars(level) for level in plain.levels],
        "plain": {**plain.macs, "total": plain.total},
        "variants": {
            name: {
                "phases": [
                    {"first": phase.first, "last": phase.last, "served": phase.served, "total": phase.mean()}
                    | {kind: phase.mean(kind) for kind in KINDS}
                    for phase in phases
                ],
                "average": average(phases),
            }
            for name, phases in passes.items()
        },
    }
