"""Pictures of the same prompts and seeds under several variants, in turn; for `quality`."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from .alternatives import Fewer
from .drawing import open_for_drawing
from .measuring import reason, timed
from .variants import Variant

TELL_EVERY = 10  # prompts


class TimedPicture(NamedTuple):
    """One picture: uint8 of shape (height, width, 3), the seconds it took, the report's account of it, and the U-Net calls that ran.

    calls: None where nothing counted them.
    """

    picture: np.ndarray
    seconds: float
    account: str
    calls: int | None = None


class _Work(NamedTuple):
    """What a process needs to draw. warm: the sizes at which it has drawn."""

    pipeline: Any
    variants: list[Variant]
    args: argparse.Namespace
    warm: set[int]


# The work of this process, when it is one of several.
_mine: _Work | None = None


def draw(
    pipeline: Any, variants: list[Variant], prompts: Sequence[str], size: int, args: argparse.Namespace
) -> tuple[dict[str, list[TimedPicture]], dict[str, str]]:
    """Draw every prompt with every variant, picture i from the seed ``args.seed + i``.

    A list of pictures by the variant's name, in prompts' order, and by name why a peer did not run. A prompt's variants are drawn one after
    the other in one process, so that all see the same machine. ``args.workers`` above 1: that many processes side by side, each with its
    own copy of the model and its part of the processor's threads.
    """
    tasks = [(index, prompt, size) for index, prompt in enumerate(prompts)]
    if args.workers == 1:
        work = _Work(pipeline, variants, args, set())
        return _gathered((draw_one(work, *task) for task in tasks), variants, len(prompts), size)
    threads = max(1, torch.get_num_threads() // args.workers)
    spawn = multiprocessing.get_context("spawn")  # A forked child of a process that has used threads or a GPU hangs.
    with ProcessPoolExecutor(args.workers, spawn, _begin, (variants, args, threads)) as pool:
        return _gathered(pool.map(_draw_mine, tasks), variants, len(prompts), size)


def draw_one(work: _Work, index: int, prompt: str, size: int) -> dict[str, TimedPicture | str]:
    """One prompt with every variant, or why a peer does not run.

    Before a size's first prompt each is drawn in two steps, uncounted. Every other prompt goes backwards, since whoever goes first may find
    the processor cool.
    """
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
    images: list = []
    settings = {"num_inference_steps": steps, "guidance_scale": work.args.guidance, "width": size, "height": size}
    settings["generator"] = torch.Generator().manual_seed(seed)
    with variant.on(work.pipeline) as accelerator:
        run = getattr(work.pipeline, "stands_in", work.pipeline)  # A peer may bring its own loop.
        seconds = timed(lambda: images.extend(run(prompt, **settings).images))
    picture = np.array(images[0].convert("RGB"))
    if accelerator is None:
        return TimedPicture(picture, seconds, "")
    report = accelerator.report()
    return TimedPicture(picture, seconds, str(report), report.as_dict()["calls_run"])


def _gathered(
    parts: Iterable[dict[str, TimedPicture | str]], variants: list[Variant], count: int, size: int
) -> tuple[dict[str, list[TimedPicture]], dict[str, str]]:
    drawings: dict[str, list[TimedPicture]] = {variant.name: [] for variant in variants}
    not_run: dict[str, str] = {}
    for done, part in enumerate(parts, 1):
        for name, drawn in part.items():
            if isinstance(drawn, TimedPicture):
                drawings[name].append(drawn)
            elif name not in not_run:
                not_run[name] = drawn
                print(f"  {size}x{size}: {name} not run: {drawn}", flush=True)
        if done % TELL_EVERY == 0:
            print(f"  {size}x{size}: {done} of {count} prompts", flush=True)
    return {name: pictures for name, pictures in drawings.items() if name not in not_run}, not_run


def _begin(variants: list[Variant], args: argparse.Namespace, threads: int) -> None:
    global _mine
    torch.set_num_threads(threads)
    _mine = _Work(open_for_drawing(args)[0], variants, args, set())


def _draw_mine(task: tuple[int, str, int]) -> dict[str, TimedPicture | str]:
    assert _mine is not None
    return draw_one(_mine, *task)
