"""Which way the noise goes in a pass, and where it turns."""

from __future__ import annotations

from ..engine.contract import Moment

# A step against the course by less than this is none: ancestral samplers' second evaluations are about where the next step begins.
CLEARLY = 1.1


class NoiseCourse:
    """Of one pass: its first two levels say whether it goes down, as pictures are drawn, or up, as they are inverted."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._goes_up: bool | None = None

    def turns(self, moment: Moment) -> bool:
        """Whether the step of ``moment`` clearly goes against the course, as samplers do that draw a part of a pass again.

        Only what is told is read: a GPU is not waited for.
        """
        last, self._last = self._last, _told(moment)
        if last is None or self._last is None or self._last == last:
            return False
        up = self._last > last
        if self._goes_up is None:
            self._goes_up = up
        return up != self._goes_up and max(self._last, last) > CLEARLY * min(self._last, last)


def _told(moment: Moment) -> float | None:
    """The noise level of the step, where a host or a scheduler's list tells it."""
    if moment.sigmas is not None and moment.step.index < len(moment.sigmas):
        return moment.sigmas[moment.step.index]
    return moment.sigma
