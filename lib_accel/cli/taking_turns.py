"""Pictures of the same prompts and seeds under several variants, in turn; for `quality`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..core.sites import find_unet, is_transformer
from .alternatives import Fewer
from .measuring import reason, timed
from .passes import asked, counted, picture_of, watched_layer
from .processes import Processes
from .progress import progress
from .variants import Variant

TELL_EVERY = 10  # prompts


class TimedPicture(NamedTuple):
    """One picture: uint8 of shape (height, width, 3), the seconds it took, the report's account of it, and the U-Net calls that ran.

    calls: None where nothing counted them. shallow: of them those that ran their shallow stages only. rows: the part of the rows of a plain
    run that ran, 0 to 1; None where nothing counted them.
    """

    picture: np.ndarray
    seconds: float
    account: str
    calls: int | None = None
    shallow: int = 0
    rows: float | None = None


class _Work(NamedTuple):
    """What a process needs to draw. warm: the sizes at which it has drawn. layer: tells how often the model runs; in a list."""

    pipeline: Any
    variants: list[Variant]
    args: argparse.Namespace
    warm: set[int]
    layer: list[Any]

    def settings(self, prompt: str, size: int, seed: int, steps: int) -> dict[str, Any]:
        """The arguments of a generation."""
        return asked(self.pipeline, prompt, steps, self.args.guidance, size, seed)


def draw(
    pipeline: Any, variants: list[Variant], prompts: Sequence[str], size: int, args: argparse.Namespace, processes: Processes
) -> tuple[dict[str, list[TimedPicture]], dict[str, str]]:
    """Draw every prompt with every variant, picture i from the seed ``args.seed + i``.

    A list of pictures by the variant's name, in prompts' order, and by name why a peer did not run; nothing but in the first of
    ``processes``. A prompt's variants are drawn one after the other in one process, so that all see the same machine.
    """
    work, part = _Work(pipeline, variants, args, set(), []), []
    tasks = processes.part(list(enumerate(prompts)))
    # Of each variant two steps to warm up; those of peers that do not run, or take fewer, are counted, too.
    total = len(variants) * (args.steps * len(tasks) + min(2, args.steps))
    with progress(pipeline, total, f"{size}x{size}"):
        for done, (index, prompt) in enumerate(tasks, 1):
            part.append(draw_one(work, index, prompt, size))
            if done % TELL_EVERY == 0:
                print(f"  {size}x{size}: {done} of {len(tasks)} prompts", flush=True)
    return _gathered(processes.gathered(part), variants, size)


def draw_one(work: _Work, index: int, prompt: str, size: int) -> dict[str, TimedPicture | str]:
    """One prompt with every variant, or why a peer does not run.

    Before a size's first prompt each is drawn in two steps, uncounted. Every other prompt goes backwards, since whoever goes first may find
    the processor cool.
    """
    if not work.layer:
        work.layer.append(_layer(work, prompt, size))
    if size not in work.warm:
        work.warm.add(size)
        _draw_each(work, prompt, size, work.args.seed, range(len(work.variants)), most=2)
    order = range(len(work.variants))
    return _draw_each(work, prompt, size, work.args.seed + index, order if index % 2 else reversed(order))


def _draw_each(
    work: _Work, prompt: str, size: int, seed: int, order: Iterable[int], most: int | None = None
) -> dict[str, TimedPicture | str]:
    drawn: dict[str, TimedPicture | str] = {}
    for variant in (work.variants[index] for index in order):
        steps = next((m.steps(work.args.steps) for m in variant.methods if isinstance(m, Fewer)), work.args.steps)
        try:
            drawn[variant.name] = _draw(work, variant, prompt, size, seed, min(steps, most or steps))
        except Exception as error:
            if variant.peer is None:
                raise
            drawn[variant.name] = reason(error)
    return drawn


def _draw(work: _Work, variant: Variant, prompt: str, size: int, seed: int, steps: int) -> TimedPicture:
    drawn: list = []
    settings = work.settings(prompt, size, seed, steps)
    with variant.on(work.pipeline) as accelerator, counted(work.layer[0]) as calls:
        run = getattr(work.pipeline, "stands_in", work.pipeline)  # A peer may bring its own loop.
        seconds = timed(lambda: drawn.append(run(**settings)))
    picture = picture_of(drawn[0])
    if accelerator is None:
        return TimedPicture(picture, seconds, "", len(calls) or None)
    report = accelerator.report()
    numbers = report.as_dict()
    shallow = sum(method["shallow_steps"] for method in numbers["methods"])
    return TimedPicture(picture, seconds, str(report), numbers["calls_run"], shallow, numbers["rows_run"] / max(numbers["rows"], 1))


def _layer(work: _Work, prompt: str, size: int) -> Any:
    """The layer by which calls are counted, for peers do not tell: a U-Net's first."""
    unet = find_unet(work.pipeline)
    if not is_transformer(unet):
        return next(unet.children(), None)
    return watched_layer(unet, lambda: work.pipeline(**work.settings(prompt, size, 0, 1)))


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
