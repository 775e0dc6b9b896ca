"""Which calls of a picture may be served from a forecast, decided while it is drawn, by how far off forecasts were so far.

At every call that runs, what the forecast would have been is compared with what came. From that follows how far off one further on may be
expected to be: errors of interpolation grow with the distance, and the sampler makes more or less of an error. Calls are served as long
as what is expected of them adds up to no more than a tolerance.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import SupportsFloat

from .noise import Noise
from .samplers import Control, Sampler


class ErrorControl:
    """The decisions for one picture in one pass.

    Args:
        sampler: one that can be forecast.
        sigmas: the noise level of every step, and where the last one goes, as noise / signal.
        control: tolerance and largest gap.
        order: of the forecast: 0 holds, 1 is the line through the two newest calls, 0.5 half way between.
        noises: what is predicted in every step; None: noise, at ``sigmas``.
    """

    def __init__(
        self, sampler: Sampler, sigmas: Sequence[float], control: Control, order: float, noises: Sequence[Noise] | None = None
    ) -> None:
        self._sampler, self._sigmas, self._control, self._order = sampler, sigmas, control, order
        self._noises = [Noise(sigma=sigma) for sigma in sigmas] if noises is None else noises
        # The noise levels of the last calls that ran, the newest last.
        self._levels: deque[float] = deque(maxlen=3)
        self._error: SupportsFloat | None = None
        self._spent = 0.0
        self._gap = 0

    def ran(self, step: int, error: SupportsFloat | None) -> None:
        """The call of ``step`` ran.

        Args:
            error: root mean square of the forecast for it less what came, of the guided prediction; of the derivative or of the picture,
                as the sampler is forecast. None: there was no forecast. A tensor is read when it decides: a GPU is not waited for before.
        """
        self._levels.append(self._noises[step].along)
        self._error = error
        self._spent, self._gap = 0.0, 0

    def served(self, step: int) -> None:
        """The call of ``step`` was served."""
        self._spent += self.expected(step)
        self._gap += 1

    def may_serve(self, step: int) -> bool:
        """Whether the call of ``step`` may be served; the first and last steps of a pass are for others to leave out."""
        if self._gap >= self._control.largest_gap:
            return False
        return self._spent + self.expected(step) <= self._control.tolerance

    def expected(self, step: int) -> float:
        """The error to expect in the latents from serving ``step``; infinite where nothing is known."""
        if self._error is None:
            return math.inf
        growth = growth_of_error(self._noises[step].along, tuple(self._levels)[::-1], self._order)
        if self._sampler.forecasting.of == "derivative":
            growth *= self._noises[step].level
        expected = float(self._error) * growth * self._sampler.gain(self._sigmas, step)
        return expected if expected == expected else math.inf


def growth_of_error(level: float, levels: Sequence[float], order: float) -> float:
    """How much larger the error of a forecast at ``level`` is expected to be than it was at the newest of ``levels``, the calls that ran.

    Order 1: the remainder of linear interpolation, through the two calls before the newest then, through the newest and the one before
    now. Order 0.5: as the distance. Order 0: as its square root; what is held while noise is added wanders. Infinite with too few levels.
    """
    if len(levels) < (3 if order == 1 else 2) or not all(map(math.isfinite, levels)):
        return math.inf
    newest, before = levels[0], levels[1]
    if order == 1:
        return _ratio((level - newest) * (level - before), (newest - before) * (newest - levels[2]))
    distance = _ratio(level - newest, newest - before)
    return distance if order else math.sqrt(max(distance, 0.0))


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.inf
