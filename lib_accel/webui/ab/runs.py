"""The runs of a comparison: plain and accelerated by turns, timed; the pictures of the first run of each are kept."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from modules import errors, processing, shared

from ...core.errors import in_words
from ..host import generators
from ..jobs import job, started

PLAIN, ACCELERATED = "plain", "accelerated"
# The host keeps encoded prompts in lists that all of its jobs share.
CACHES = ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc")


@dataclass
class Side:
    """What the runs of one side came to.

    seconds: of each counted run, the whole job. warm_up: seconds of the run that was not counted, None without one. warmed: there was one,
    finished or not. done: the host's result whose pictures are kept, None while there is none. partial: these are of a run that was
    interrupted or skipped. varies: a later run made other pictures. failed: why a run failed, in words. account: Accel's account of the
    run that made the pictures, or about a later one that made them again, as data; None where it took no part.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    warm_up: float | None = None
    warmed: bool = False
    done: Any = None
    images: list[Any] = field(default_factory=list)
    infotexts: list[str] = field(default_factory=list)
    partial: bool = False
    varies: bool = False
    failed: str | None = None
    account: dict[str, Any] | None = None

    @property
    def line(self) -> str | None:
        """The account in one line."""
        return self.account["line"] if self.account is not None else None

    def take(self, done: Any, images: list[Any], infotexts: list[str], complete: bool, account: dict[str, Any] | None) -> None:
        """A run ended with ``done``, whose pictures are ``images``. complete: it ran to its end."""
        if complete or self.partial or not self.images:
            self.account = account
        if images and (not self.images or (self.partial and complete)):
            self.done, self.images, self.infotexts, self.partial = done, images, infotexts, not complete
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
    # All start alike, and what comes later finds what one plain job would have left.
    begin_alike, leave = generators.kept(), None
    for number, (name, counted) in enumerate(runs, 1):
        if shared.state.interrupted or shared.state.stopping_generation:
            break
        side = sides[name]
        if side.failed:
            continue
        shared.state.job = f"{name}, run {number} out of {len(runs)}"
        mine = job_for(p, keeps=not side.images or side.partial)
        run = started.begin(mine)
        begin_alike()
        began = time.perf_counter()
        try:
            with job.forced(name == ACCELERATED):
                done = processing.process_images(mine)
        except Exception as error:
            errors.display(error, f"Accel A/B, {name}")
            side.failed = in_words(error)
            continue
        seconds = time.perf_counter() - began
        leave = leave or generators.kept()
        images, infotexts = started.pictures_of(done, mine)
        complete = not run.cut and len(images) >= len(mine.all_prompts)
        its_job = job.job_of(mine)
        side.take(done, images, infotexts, complete, its_job.account.as_dict() if its_job is not None else None)
        side.warmed |= not counted
        if complete and counted:
            side.seconds.append(seconds)
        elif complete:
            side.warm_up = seconds
    if leave is not None:
        leave()
    return sides


def job_for(p: Any, keeps: bool) -> Any:
    """A copy of ``p`` for one run. keeps: its pictures are saved as the host's options say, else not at all."""
    mine = copy.copy(p)
    for shared_by_copies in ("extra_generation_params", "override_settings", "comments"):
        setattr(mine, shared_by_copies, dict(getattr(p, shared_by_copies, None) or {}))
    if getattr(p, "styles", None):
        mine.styles = list(p.styles)
    mine.do_not_save_grid = True
    if not keeps:
        mine.do_not_save_samples = True
    for name in CACHES:
        if hasattr(mine, name):
            setattr(mine, name, [None, None])
    return mine


def _same(one: Any, other: Any) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))
