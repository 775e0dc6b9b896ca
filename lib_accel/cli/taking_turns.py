"""Pictures of the same prompts and seeds under several variants, in turn; for `quality`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..core.sites import find_unet
from .alternatives import Fewer
from .counting import Weights, calls_of, counting_layer, weigh
from .measuring import reason, timed
from .passes import asked, picture_of
from .processes import Processes
from .progress import progress
from .variants import Variant

TELL_EVERY = 10  # prompts
PLAIN = "plain"
# A call that is served as a whole multiplies less than this part of one that runs.
NOTHING = 0.005


class TimedPicture(NamedTuple):
    """One picture: uint8 of shape (height, width, 3), the seconds it took, the report's account of it, and the model's calls that ran.

    calls: None where nothing counted them. shallow: of them those that ran their shallow stages only. rows: the part of the rows of a plain
    run that ran, 0 to 1; None where nothing counted them. in_part: calls beside those that a peer served in part, running something.
    macs: multiply-adds of all calls, each as much as its kind was weighed with; None where none was. measured: behind how many calls the
    shallow stages ran once more.
    """

    picture: np.ndarray
    seconds: float
    account: str
    calls: int | None = None
    shallow: int = 0
    rows: float | None = None
    in_part: int = 0
    macs: float | None = None
    measured: int = 0


class _Work(NamedTuple):
    """What a process needs to draw. warm: the sizes at which it has drawn. layer: tells how often the model runs; in a list. weights: of
    calls, by size and variant."""

    pipeline: Any
    variants: list[Variant]
    args: argparse.Namespace
    warm: set[int]
    layer: list[Any]
    weights: dict[tuple[int, str], Weights]

    def steps(self, variant: Variant) -> int:
        """How many ``variant`` takes."""
        return next((m.steps(self.args.steps) for m in variant.methods if isinstance(m, Fewer)), self.args.steps)

    @property
    def weighs(self) -> bool:
        """Whether calls are weighed: peers run some in part."""
        return any(variant.peer for variant in self.variants)

    def settings(self, prompt: str, size: int, seed: int, steps: int) -> dict[str, Any]:
        """The arguments of a generation."""
        return asked(self.pipeline, prompt, steps, self.args.guidance, size, seed)


def draw(
    pipeline: Any, variants: list[Variant], prompts: Sequence[str], size: int, args: argparse.Namespace, processes: Processes
) -> tuple[dict[str, list[TimedPicture]], dict[str, str]]:
    """Draw every prompt with every variant, picture i from the seed ``args.seed + i``.

    A list of pictures by the variant's name, in prompts' order, and by name why a peer did not run; nothing but in the first of
    ``processes``. A prompt's variants are drawn one after the other in one process, so that all see the same machine. Stopped from the
    keyboard it has the prompts that were finished, if any were; of several processes nobody knows what the others have.
    """
    work, part = _Work(pipeline, variants, args, set(), [], {}), []
    tasks = processes.part(list(enumerate(prompts)))
    # Of each variant two steps to warm up; those of peers that do not run, or take fewer, are counted, too.
    total = len(variants) * (args.steps * len(tasks) + min(2, args.steps)) + sum(map(_weighed_steps, [work] * len(variants), variants))
    with progress(pipeline, total, f"{size}x{size}"):
        for done, (index, prompt) in enumerate(tasks, 1):
            try:
                part.append(draw_one(work, index, prompt, size))
            except KeyboardInterrupt:
                if not part or processes.count > 1:
                    raise
                break
            if done % TELL_EVERY == 0:
                print(f"  {size}x{size}: {done} of {len(tasks)} prompts", flush=True)
    return _gathered(processes.gathered(part), variants, size)


def draw_one(work: _Work, index: int, prompt: str, size: int) -> dict[str, TimedPicture | str]:
    """One prompt with every variant, or why a peer does not run.

    Before a size's first prompt each is drawn in two steps, uncounted, and weighed if there are peers. Every other prompt goes backwards,
    since whoever goes first may find the processor cool.
    """
    if not work.layer:
        draw_plainly = partial(_run, work.pipeline, work.settings(prompt, size, 0, 1))
        work.layer.append(counting_layer(find_unet(work.pipeline), draw_plainly))
    if size not in work.warm:
        work.warm.add(size)
        _draw_each(work, prompt, size, work.args.seed, range(len(work.variants)), most=2)
        _weigh_each(work, prompt, size)
    order = range(len(work.variants))
    return _draw_each(work, prompt, size, work.args.seed + index, order if index % 2 else reversed(order))


def _draw_each(
    work: _Work, prompt: str, size: int, seed: int, order: Iterable[int], most: int | None = None
) -> dict[str, TimedPicture | str]:
    drawn: dict[str, TimedPicture | str] = {}
    for variant in (work.variants[index] for index in order):
        steps = work.steps(variant)
        try:
            drawn[variant.name] = _draw(work, variant, prompt, size, seed, min(steps, most or steps))
        except Exception as error:
            if variant.peer is None:
                raise
            drawn[variant.name] = reason(error)
    return drawn


def _weigh_each(work: _Work, prompt: str, size: int) -> None:
    """Weigh the calls of every variant. Of plain and of fewer steps all calls are alike."""
    for variant in work.variants:
        steps = _weighed_steps(work, variant)
        try:
            if steps:
                _weigh(work, variant, size, work.settings(prompt, size, work.args.seed, steps))
        except Exception:
            # That a peer does not run is told where it draws.
            if variant.peer is None:
                raise


def _weigh(work: _Work, variant: Variant, size: int, settings: dict[str, Any]) -> Weights:
    """What the calls of ``variant`` multiply, in a run that is not timed."""
    with variant.on(work.pipeline):
        weights = weigh(find_unet(work.pipeline), work.layer[0], partial(_run, work.pipeline, settings))
    work.weights[size, variant.name] = weights
    return weights


def _weighed_steps(work: _Work, variant: Variant) -> int:
    """How many steps `variant` is weighed in."""
    if not work.weighs or any(isinstance(method, Fewer) for method in variant.methods):
        return 0
    return work.args.steps if variant.methods or variant.peer else min(2, work.args.steps)


def _run(pipeline: Any, settings: dict[str, Any]) -> Any:
    """A peer may bring its own loop."""
    return getattr(pipeline, "stands_in", pipeline)(**settings)


def _draw(work: _Work, variant: Variant, prompt: str, size: int, seed: int, steps: int) -> TimedPicture:
    drawn: list = []
    settings = work.settings(prompt, size, seed, steps)
    with variant.on(work.pipeline) as accelerator, calls_of(find_unet(work.pipeline), work.layer[0]) as calls:
        seconds = timed(lambda: drawn.append(_run(work.pipeline, settings)))
    picture, whole = picture_of(drawn[0]), sum(calls)
    weights = work.weights.get((size, variant.name), work.weights.get((size, PLAIN)))
    macs = None if weights is None else weights.of(whole, len(calls) - whole)
    if weights is not None and macs is None:
        # The first picture had no calls of a kind that this one has.
        weights = _weigh(work, variant, size, settings)
        macs = weights.of(whole, len(calls) - whole)
    if accelerator is None:
        in_part = len(calls) - whole if weights is not None and (weights.part or 0) > NOTHING * (weights.whole or 0) else 0
        return TimedPicture(picture, seconds, "", whole or None, in_part=in_part, macs=macs)
    report = accelerator.report()
    numbers = report.as_dict()
    shallow = sum(method["shallow_steps"] for method in numbers["methods"])
    rows = numbers["rows_run"] / max(numbers["rows"], 1)
    return TimedPicture(picture, seconds, str(report), numbers["calls_run"], shallow, rows, macs=macs, measured=numbers["calls_measured"])


def _gathered(
    parts: Iterable[dict[str, TimedPicture | str]], variants: list[Variant], size: int
) -> tuple[dict[str, list[TimedPicture]], dict[str, str]]:
    drawings: dict[str, list[TimedPicture]] = {variant.name: [] for variant in variants}
    not_run: dict[str, str] = {}
    for part in parts:
        for name, drawn in part.items():
            if isinstance(drawn, TimedPicture):
                drawings[name].append(drawn)
            elif name not in not_run:
                not_run[name] = drawn
                print(f"  {size}x{size}: {name} not run: {drawn}", flush=True)
    return {name: pictures for name, pictures in drawings.items() if name not in not_run}, not_run
