"""Where a U-Net call stands in its pass: step k of n, or a fraction told by the timestep.

Calls are never counted: two-evaluation samplers, separate cond and uncond calls and extra passes of other extensions all make the
number of calls meaningless.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .marked_rows import MarkedRows
from .reasons import Reason
from .rows import Layout, Row

Window = tuple[float, float]
# The noisiest timestep of the models whose timesteps count.
TOP = 999.0


def first_step(fraction: float, total: int) -> int:
    """First step index of ``fraction`` (0 to 1) of a pass of ``total`` steps; 0.4 of 25 is step 10."""
    return math.ceil(fraction * total - 1e-9)


def acts_in(window: Window, index: int, total: int) -> bool:
    """Whether step ``index`` of ``total`` lies in ``window``, start included and end excluded.

    A window to the end of the pass has no end: hosts that count evaluations go beyond the total.
    """
    start, end = window
    return first_step(start, total) <= index and (index < first_step(end, total) or end >= 1)


def waiting_for_prompts(what: str, settled: int, total: int | None) -> Reason:
    """A clause: ``what`` waits until the prompts stay, from step ``settled`` (from 0) of ``total`` on, and sees them in one such step."""
    if total is not None and settled + 1 >= total:
        return Reason.of("waits_for_ever", "{what} waits for the last change of the prompts, which never comes", what=what)
    return Reason.of("waits", "{what} waits for the last change of the prompts, step {step}", what=what, step=settled + 2)


def timestep_value(timestep: Any) -> float | None:
    """A timestep (number, tensor, one per row or None) as a number: the first row's."""
    if isinstance(timestep, torch.Tensor):
        return float(timestep.flatten()[0]) if timestep.numel() else None
    return None if timestep is None else float(timestep)


@dataclass(frozen=True)
class Step:
    """A step of a pass.

    index: from 0. total: steps in the pass, or None when only timesteps are known. fraction: how much of the pass went before (0 to 1).
    source: who said so, ``host`` | ``schedule`` | ``timestep``. new_pass: True on the first call of a pass.
    """

    index: int
    total: int | None
    fraction: float
    source: str
    new_pass: bool = False

    def within(self, window: Window) -> bool:
        """Whether this step lies in ``window`` = (start, end) in fractions of the pass; see `acts_in`."""
        start, end = window
        if self.total is None:
            return start <= self.fraction and (self.fraction < end or end >= 1)
        return acts_in(window, self.index, self.total)


class StepClock:
    """Turns what hosts, schedules and timesteps say into steps, and hands out the rows of a step in order."""

    def __init__(self) -> None:
        self._host: tuple[int, int, tuple[Row, ...] | None] | None = None
        self._last: tuple[str, float] | None = None
        self._begin = 0.0
        self._index = -1
        # Of the pass: 1 as schedules go and noise falls, -1 against it, 0 not known yet.
        self._direction = 0
        # By how much the timesteps of a pass against it rose first.
        self._stride = 0.0
        self._fresh = True
        self._offset = 0
        # The step's rows where calls mark theirs; None before its first such call.
        self._marked: MarkedRows | None = None
        # Whether a step of this pass held more rows than the host told.
        self.overran = False

    def new_pass(self) -> None:
        """The next U-Net call begins a pass, whatever its timestep."""
        self._fresh = True
        self._host = None
        self._last = None

    def tell(self, index: int, total: int, rows: tuple[Row, ...] | None) -> None:
        """A host says: the U-Net calls that follow belong to step ``index`` of ``total``; together they hold ``rows``."""
        if index < 0:
            raise ValueError(f"step index is {index}; it must be 0 or more.")
        if total < 1:
            raise ValueError(f"step total is {total}; it must be 1 or more.")
        if self._host and (index < self._host[0] or total != self._host[1]):
            self._fresh = True
        self._host = (index, total, rows)
        self._offset, self._marked = 0, None

    @property
    def told(self) -> bool:
        return self._host is not None

    def at_host_step(self) -> Step:
        """The step the host told."""
        index, total, _ = self._host
        return Step(index, total, index / total, "host", self._take_fresh())

    def at_schedule(self, position: int, positions: int) -> Step:
        """A pipeline's schedule says: step ``position`` of ``positions`` (of the whole schedule).

        A pass may begin late in the schedule (img2img); its steps are counted from its first call. It may go through it backwards
        (inversion): a pass whose second step is the one before its first does.
        """
        if self._last is None or self._last[0] != "schedule" or self._fresh:
            self._begin_at(position)
        elif self._direction == 0 and position == self._last[1] - 1:
            self._direction = -1
        elif (position - self._last[1]) * (self._direction or 1) < 0:
            self._begin_at(position)
        elif position != self._last[1]:
            self._direction = self._direction or 1
        self._advance("schedule", position)
        begin = int(self._begin)
        index = abs(position - begin)
        total = begin + 1 if self._direction < 0 else positions - begin
        return Step(index, total, index / total, "schedule", self._take_fresh())

    def at_timestep(self, timestep: float | None) -> Step:
        """Only the timestep is known (about 999 down to 0): lower is the next step, higher a new pass, None is all of one pass.

        A pass whose second timestep is a little higher than its first goes up (inversion); in it a lower one is a new pass.
        """
        now = 0.0 if timestep is None else float(timestep)
        if self._last is None or self._last[0] != "timestep" or self._fresh:
            self._begin_at(now)
        elif now != self._last[1]:
            rise, room = now - self._last[1], TOP - self._last[1]
            # What rises by more than half of the way up, and no pass of such steps would, goes back to the top.
            climbs = 0 < rise <= max(room / 2, 2 * self._stride)
            if self._direction == 0:
                self._direction, self._stride = (-1, rise) if climbs else (1, 0.0)
            if not (climbs if self._direction < 0 else rise < 0):
                self._begin_at(now)
        if self._fresh or now != self._last[1]:
            self._index += 1
        self._advance("timestep", now)
        room = TOP - self._begin if self._direction < 0 else self._begin
        fraction = min(1.0, abs(now - self._begin) / room) if room > 0 else 0.0
        return Step(self._index, None, fraction, "timestep", self._take_fresh())

    def _begin_at(self, place: float) -> None:
        """A pass begins at ``place``, a position or a timestep."""
        self._fresh, self._begin, self._index, self._direction, self._stride = True, place, -1, 0, 0.0

    @property
    def begin(self) -> int | None:
        """The place in the pipeline's schedule at which the pass began; None where no schedule was read."""
        return int(self._begin) if self._last is not None and self._last[0] == "schedule" else None

    @property
    def rows_taken(self) -> int:
        """Rows handed out since the step was told."""
        return self._offset

    @property
    def ends_pass(self) -> bool:
        """Whether the rows taken last were the last of the pass, as far as the host told."""
        if self._host is None:
            return False
        index, total, rows = self._host
        return index == total - 1 and rows is not None and self._offset >= len(rows)

    @property
    def rows_told(self) -> tuple[Row, ...] | None:
        """All rows of the step that the host told last."""
        return self._host[2] if self._host else None

    def take_rows(self, count: int, layout: Layout | str | None, marks: Sequence[str] | None = None) -> Layout:
        """The next ``count`` rows of the step: the host's labels, else ``layout`` (the pipeline's), else unknown rows.

        layout: a clause where the pipeline cannot tell, which says why. marks: the role of each chunk, where the call itself says so;
        the host's labels are then taken by them and not in order.
        """
        offset, self._offset = self._offset, self._offset + count
        rows = self._host[2] if self._host else None
        if marks is not None and (rows is not None or (self._host is None and layout is None)):
            if self._marked is None:
                self._marked = MarkedRows(rows)
            taken = self._marked.take(count, marks)
            self.overran |= taken is None and rows is not None
            return taken or Layout.unknown(count, offset)
        if rows is not None:
            if offset + count <= len(rows):
                return Layout(rows[offset : offset + count])
            self.overran = True
            return Layout.unknown(count, offset)
        return layout if isinstance(layout, Layout) else Layout.unknown(count, offset, layout)

    def _advance(self, source: str, now: float) -> None:
        if self._last != (source, now):
            self._offset, self._marked = 0, None
        self._last = (source, now)

    def _take_fresh(self) -> bool:
        fresh, self._fresh = self._fresh, False
        self.overran = self.overran and not fresh
        return fresh
