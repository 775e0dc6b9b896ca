"""The cells of an X/Y/Z plot: how long each took, told below the grid. The host's script shows the line of its first cell alone."""

from __future__ import annotations

import time
from functools import wraps
from typing import Any

from ...settings.infotext import shown_preset
from ...settings.schema import KNOBS
from . import job

# Cells of the plot that is drawn now, each with whether it has anything to do with us; None while there is none.
_cells: list[tuple[str, bool]] | None = None
# On the host's processing object of a cell: when it began, and the object's id, which copies do not have. Others send it as JSON.
BEGAN = "accel_began"
# On the host's script, so that it is watched once.
WATCHED = "accel_watches"
MOST_CELLS = 100
FIRST = "The line below describes the first cell only."


def watch(script: Any) -> None:
    """From now on the plots of ``script``, the class of the host's X/Y/Z script, tell of all of their cells."""
    if getattr(script, WATCHED, False):
        return
    run = script.run

    @wraps(run)
    def watched(self: Any, p: Any, *args: Any, **named: Any) -> Any:
        global _cells
        before, _cells = _cells, []
        try:
            with job.plotted():
                done = run(self, p, *args, **named)
            # Without Accel a plot is the host's alone.
            if any(ours for _, ours in _cells) and done is not None:
                line = str(getattr(done, "comments", "") or "").strip()
                done.comments = "\n".join(filter(None, (told([cell for cell, _ in _cells]), FIRST if line else "", line)))
            return done
        finally:
            _cells = before

    script.run = watched
    setattr(script, WATCHED, True)


def begins(p: Any) -> None:
    """A job begins, which may be a cell."""
    setattr(p, BEGAN, (time.perf_counter(), id(p)))


def ends(p: Any) -> None:
    """A job is over. Jobs that others ran inside of a cell are told of as cells of their own; copies of one that never began are none."""
    began, whose = getattr(p, BEGAN, None) or (0.0, None)
    if _cells is None or whose != id(p):
        return
    mine = job.job_of(p)
    gain = mine.account.times_as_fast if mine is not None and mine.accelerates else None
    seconds = f"{time.perf_counter() - began:.2f} s"
    words = f"{_named(p, mine)} {seconds}" + (f" ({gain:.1f}x est.)" if gain is not None else "")
    _cells.append((words, mine is not None or bool(getattr(p, job.AXES, None))))


def told(cells: list[str]) -> str:
    """The sentence below the grid."""
    more = f", and {len(cells) - MOST_CELLS} more" if len(cells) > MOST_CELLS else ""
    return f"Accel, cells in the order of drawing: {', '.join(cells[:MOST_CELLS])}{more}."


def _named(p: Any, mine: Any) -> str:
    """What our axes say of a cell; without any, whether it was accelerated."""
    axes = getattr(p, job.AXES, None) or {}
    words = [f"{KNOBS[name].label} {value}" for name, value in axes.items() if name != "preset"]
    settings = mine.settings if mine is not None else None
    return ", ".join([shown_preset(settings["preset"]) if settings is not None and settings["enabled"] else "Off", *words])
