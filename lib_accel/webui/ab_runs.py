"""The runs of a comparison: plain and accelerated by turns, timed; the pictures of the first run of each are kept."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from modules import errors, processing, shared

from ..own_errors import in_words
from . import job

PLAIN, ACCELERATED = "plain", "accelerated"


@dataclass
class Side:
    """What the runs of one side came to.

    seconds: of each counted run, the whole job. warm_up: seconds of the run that was not counted, None without one. done: the host's
    result whose pictures are kept, None while there is none. partial: these are of a run that was interrupted or skipped. varies: a
    later run made other pictures. failed: why a run failed, in words. account: Accel's line about the last run.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    warm_up: float | None = None
    done: Any = None
    images: list[Any] = field(default_factory=list)
    infotexts: list[str] = field(default_factory=list)
    partial: bool = False
    varies: bool = False
    failed: str | None = None
    account: str | None = None

    def take(self, done: Any, complete: bool) -> None:
        """A run ended with ``done``. complete: it ran to its end."""
        first = getattr(done, "index_of_first_image", 0)
        images, infotexts = list(done.images[first:]), list(done.infotexts[first:])
        images = images[: len(infotexts)]  # The host may append masks, which have no PNG info.
        if images and (not self.images or (self.partial and complete)):
            self.done, self.images, self.infotexts, self.partial = done, images, infotexts[: len(images)], not complete
        elif complete and not self.partial:
            self.varies |= len(images) != len(self.images) or not all(map(_same, images, self.images))


def order_of(repeats: int, warm_up: bool) -> list[tuple[str, bool]]:
    """(side, counted) of every run. Every other turn goes backwards: whoever goes first may find the processor cool or the caches cold."""
    runs = []
    for turn in range(repeats + warm_up):
        names = (PLAIN, ACCELERATED) if turn % 2 == 0 else (ACCELERATED, PLAIN)
        runs += [(name, turn >= warm_up) for name in names]
    return runs


def run_both(p: Any, repeats: int, warm_up: bool) -> dict[str, Side]:
    """Run ``p``, whose seed is fixed, ``repeats`` times for each side, and once more uncounted before that with ``warm_up``.

    An interruption ends it; a side that fails is not tried again and the other one goes on. What was finished is in the sides.
    """
    sides = {name: Side(name) for name in (PLAIN, ACCELERATED)}
    runs = order_of(repeats, warm_up)
    shared.state.job_count = len(runs) * p.n_iter
    for number, (name, counted) in enumerate(runs, 1):
        if shared.state.interrupted or shared.state.stopping_generation:
            break
        side = sides[name]
        if side.failed:
            continue
        shared.state.job = f"{name}, run {number} out of {len(runs)}"
        mine = job_for(p, name, keeps=not side.images)
        began = time.perf_counter()
        try:
            done = processing.process_images(mine)
        except Exception as error:
            errors.display(error, f"Accel A/B, {name}")
            side.failed = in_words(error)
            continue
        seconds = time.perf_counter() - began
        complete = not (shared.state.interrupted or shared.state.skipped or shared.state.stopping_generation)
        side.take(done, complete)
        its_job = job.job_of(mine)
        side.account = str(its_job.account) if its_job is not None else None
        if complete and counted:
            side.seconds.append(seconds)
        elif complete:
            side.warm_up = seconds
    return sides


def job_for(p: Any, name: str, keeps: bool) -> Any:
    """A copy of ``p`` for one run of the side ``name``. keeps: its pictures are saved as the host's options say, else not at all."""
    mine = copy.copy(p)
    for shared_by_copies in ("extra_generation_params", "override_settings", "comments"):
        setattr(mine, shared_by_copies, dict(getattr(p, shared_by_copies, None) or {}))
    if getattr(p, "styles", None):
        mine.styles = list(p.styles)
    mine.do_not_save_grid = True
    if not keeps:
        mine.do_not_save_samples = True
    setattr(mine, job.AXES, {**(getattr(p, job.AXES, None) or {}), "enabled": name == ACCELERATED})
    return mine


def _same(one: Any, other: Any) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))
