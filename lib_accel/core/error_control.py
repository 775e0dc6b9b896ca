"""Which calls of a picture may be served from a forecast, decided while it is drawn, by how far off forecasts were so far.

At every call that runs, what the forecast would have been is compared with what came. From that follows how far off one further on may be
expected to be: errors of interpolation grow with the distance, and the sampler makes more or less of an error. Calls are served as long
as what is expected of them adds up to no more than a tolerance. Where deep stages may be served (DeepCache), a call that may not be served
may still run its shallow stages alone, as long as the error that is expected of this fits into the rest of the tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import SupportsFloat

from .forecasting import Control
from .noise import Noise
from .samplers import Sampler


class ErrorControl:
    """The decisions for one picture in one pass.

    Args:
        sampler: one that can be forecast.
        sigmas: the noise level of every step, and where the last one goes, as noise / signal.
        control: tolerance and largest gap.
        order: of the forecast: 0 holds, 1 is the line through the two newest calls, 0.5 half way between.
        noises: what is predicted in every step; None: noise, at ``sigmas``.
        shallow_order: of what deep stages are served, 0 to 1.
    """

    def __init__(
        self,
        sampler: Sampler,
        sigmas: Sequence[float],
        control: Control,
        order: float,
        noises: Sequence[Noise] | None = None,
        shallow_order: float = 0.0,
    ) -> None:
        self._sampler, self._sigmas, self._control = sampler, sigmas, control
        self._noises = [Noise(sigma=sigma) for sigma in sigmas] if noises is None else noises
        self._forecast = _Expected(order)
        # What is held changes as far as the noise level does; it is not noise itself.
        self._shallow = _Expected(1.0 if shallow_order == 1 else 0.5)
        self._spent = 0.0
        self._gap = self._ran_shallow = 0

    def ran(self, step: int, error: SupportsFloat | None, shallow: SupportsFloat | None = None) -> None:
        """The call of ``step`` ran.

        Args:
            error: root mean square of the forecast for it less what came, of the guided prediction; of the derivative or of the picture,
                as the sampler is forecast. None: there was no forecast. A tensor is read when it decides: a GPU is not waited for before.
            shallow: the same of what its shallow stages alone would have predicted; None: that was not measured.
        """
        level = self._noises[step].along
        self._forecast.add(level, error)
        self._shallow.add(self._noises[step].sigma, shallow)
        self._spent, self._gap, self._ran_shallow = 0.0, 0, 0

    def served(self, step: int) -> None:
        """The call of ``step`` was served."""
        self._spent += self.expected(step)
        self._gap += 1

    def ran_shallow(self, step: int) -> None:
        """The call of ``step`` ran its shallow stages alone. Forecasts go on from what it predicted."""
        self._spent += self.expected_shallow(step)
        self._forecast.add_shallow(self._noises[step].along)
        self._gap, self._ran_shallow = 0, self._ran_shallow + 1

    def may_serve(self, step: int) -> bool:
        """Whether the call of ``step`` may be served; the first and last steps of a pass are for others to leave out."""
        if self._gap >= self._control.largest_gap:
            return False
        return self._spent + self.expected(step) <= self._control.tolerance

    def may_run_shallow(self, step: int, most: int) -> bool:
        """Whether the shallow stages are enough for the call of ``step``. most: how many such calls there may be from a whole one to the
        next."""
        return self._ran_shallow < most and self._spent + self.expected_shallow(step) <= self._control.tolerance

    def expected(self, step: int) -> float:
        """The error to expect in the latents from serving ``step``; infinite where nothing is known."""
        return self._in_latents(step, self._forecast.at(self._noises[step].along))

    def expected_shallow(self, step: int) -> float:
        """The same from running its shallow stages alone."""
        # Features are continued along sigma, whatever is predicted.
        return self._in_latents(step, self._shallow.at(self._noises[step].sigma))

    def _in_latents(self, step: int, expected: float) -> float:
        if self._sampler.forecasting.of == "derivative":
            expected *= self._noises[step].level
        expected *= self._sampler.gain(self._sigmas, step)
        return expected if expected == expected else math.inf


class _Expected:
    """How far off something will be at another noise level, by how far off it was when it was measured last. order: as it is continued."""

    def __init__(self, order: float) -> None:
        self._order = order
        # The noise levels that it is continued from, those of calls that ran in whole, and those that it was continued from when it was
        # measured, behind the one where it was; the newest first.
        self._levels: tuple[float, ...] = ()
        self._whole: tuple[float, ...] = ()
        self._measured: tuple[float, ...] = ()
        self._error: SupportsFloat | None = None

    def add(self, level: float, error: SupportsFloat | None) -> None:
        """It was off by ``error`` at ``level``, from which it is continued now. None: that is not known."""
        self._measured, self._error = (level, *self._levels), error
        self._levels = self._whole = (level, *self._whole)[:2]

    def add_shallow(self, level: float) -> None:
        """Until the next call in whole it is continued from ``level``, too; nothing new was learnt of its error."""
        self._levels = (level, *self._levels)[:2]

    def at(self, level: float) -> float:
        """What to expect at ``level``; infinite where nothing is known."""
        if self._error is None:
            return math.inf
        return float(self._error) * growth_of_error(level, self._levels, self._order, self._measured)


def growth_of_error(level: float, levels: Sequence[float], order: float, measured: Sequence[float] | None = None) -> float:
    """How much larger the error of a forecast at ``level`` is expected to be than it was when it was measured.

    levels: of the calls that it is continued from, the newest first. measured: where it was measured, and behind it the levels of the calls
    that it was continued from then; None: at the newest of ``levels``, from those behind it.

    Order 1: the remainder of linear interpolation. Order 0.5: as the distance. Order 0: as its square root; what is held while noise is
    added wanders. Infinite with too few levels.
    """
    measured = levels if measured is None else measured
    needed = 2 if order == 1 else 1
    known = (*levels, *measured)
    if len(levels) < needed or len(measured) < needed + 1 or not all(map(math.isfinite, known)):
        return math.inf
    growth = _ratio(_reach(level, levels, needed), _reach(measured[0], measured[1:], needed))
    return math.sqrt(max(growth, 0.0)) if not order else growth


def _reach(level: float, levels: Sequence[float], points: int) -> float:
    """By how much a line through so many points, the first of ``levels``, may miss at ``level``."""
    return math.prod(level - point for point in levels[:points])


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.inf
