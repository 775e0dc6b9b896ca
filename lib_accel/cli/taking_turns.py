"""Pictures of the same prompts and seeds under several variants, in turn; for `quality`."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch

from ..api import accelerated
from .alternatives import Fewer
from .drawing import open_for_drawing
from .measuring import timed

TELL_EVERY = 10  # prompts
EVERYWHERE = ", auto off"


class Drawn(NamedTuple):
    """One picture: uint8 of shape (height, width, 3), the seconds it took, and the report's account of it."""

    picture: np.ndarray
    seconds: float
    account: str


class _Work(NamedTuple):
    """What a process needs to draw."""

    pipeline: Any
    variants: dict[str, tuple]
    args: argparse.Namespace


# The work of this process, when it is one of several.
_mine: _Work | None = None


def draw(pipeline: Any, variants: dict[str, tuple], prompts: Sequence[str], size: int, args: argparse.Namespace) -> dict[str, list[Drawn]]:
    """Draw every prompt with every variant, picture i from the seed ``args.seed + i``: a list of pictures by variant, in prompts' order.

    Variants of a prompt are drawn one after the other in one process, so that all see the same machine. ``args.workers`` above 1: that many
    processes side by side, each with its own copy of the model and its part of the processor's threads.
    """
    drawings: dict[str, list[Drawn]] = {name: [] for name in variants}
    tasks = [(index, prompt, size) for index, prompt in enumerate(prompts)]
    if args.workers == 1:
        work = _Work(pipeline, variants, args)
        return _gathered((draw_one(work, *task) for task in tasks), drawings, len(prompts), size)
    threads = max(1, torch.get_num_threads() // args.workers)
    spawn = multiprocessing.get_context("spawn")  # A forked child of a process that has used threads or a GPU hangs.
    with ProcessPoolExecutor(args.workers, spawn, _begin, (variants, args, threads)) as pool:
        return _gathered(pool.map(_draw_mine, tasks), drawings, len(prompts), size)


def draw_one(work: _Work, index: int, prompt: str, size: int) -> dict[str, Drawn]:
    """One prompt with every variant; every other prompt backwards, since whoever goes first may find the processor cool."""
    pipeline, variants, args = work
    drawn = {}
    for name in list(variants) if index % 2 else list(reversed(variants)):
        images: list = []
        steps = next((m.steps(args.steps) for m in variants[name] if isinstance(m, Fewer)), args.steps)
        settings = {"num_inference_steps": steps, "guidance_scale": args.guidance, "width": size, "height": size}
        settings["generator"] = torch.Generator().manual_seed(args.seed + index)
        everywhere = args.auto == "off" or name.endswith(EVERYWHERE)
        with accelerated(pipeline, *variants[name], auto=False if everywhere else None) as accelerator:
            seconds = timed(lambda s=settings, into=images: into.extend(pipeline(prompt, **s).images))
        drawn[name] = Drawn(np.array(images[0].convert("RGB")), seconds, str(accelerator.report()))
    return drawn


def _gathered(parts: Iterable[dict[str, Drawn]], drawings: dict[str, list[Drawn]], count: int, size: int) -> dict[str, list[Drawn]]:
    for done, part in enumerate(parts, 1):
        for name, drawn in part.items():
            drawings[name].append(drawn)
        if done % TELL_EVERY == 0:
            print(f"  {size}x{size}: {done} of {count} prompts", flush=True)
    return drawings


def _begin(variants: dict[str, tuple], args: argparse.Namespace, threads: int) -> None:
    global _mine
    torch.set_num_threads(threads)
    _mine = _Work(open_for_drawing(args)[0], variants, args)


def _draw_mine(task: tuple[int, str, int]) -> dict[str, Drawn]:
    assert _mine is not None
    return draw_one(_mine, *task)
