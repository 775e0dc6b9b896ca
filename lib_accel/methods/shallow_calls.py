"""Calls of a forecast pass that run their shallow stages alone: between calls that run in whole and those that are forecast.

For each picture and step one decision among three: forecast it, else run the shallow stages with what was kept of the deep ones
(`DeepCache`), else run the whole U-Net. How far off a shallow call is, is measured at whole ones: the shallow stages run once more there,
on what was kept before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..core.error_control import ErrorControl
from ..core.method_account import MethodAccount
from ..core.rows import Layout
from ..engine.contract import Moment
from .guided_error import GuidedError, picture_of
from .kept_predictions import KeptPredictions

if TYPE_CHECKING:
    from .forecast import Forecast


class ShallowCalls:
    """What a step's calls told of them. step: its index."""

    def __init__(self, step: int) -> None:
        self._errors = GuidedError(step)
        # The pictures that ran so, and the decisions of the step.
        self.pictures: set[int] = set()
        self.decided: dict[int, bool] = {}

    def ran(self, rows: Layout) -> None:
        """``rows`` ran their shallow stages alone."""
        self.pictures |= {picture_of(row) for row in rows}

    def measured(self, moment: Moment, rows: Layout, errors: torch.Tensor | None) -> None:
        """``rows`` would have been off by ``errors`` [rows, channels, h, w]."""
        self._errors.add(moment, rows, errors)

    def error_of(self, picture: int, ran: GuidedError) -> torch.Tensor | None:
        """How far off its guided prediction would have been; None where that was not measured of all of its rows that ``ran``."""
        measured = self._errors.rows(picture)
        return self._errors.of(picture) if measured and measured == ran.rows(picture) else None


class DecidesShallow:
    """The part of it of a runner that decides which steps of a pass run; a runner that serves deep stages asks and tells.

    shallow_order: of what deep stages are served, 0 to 1; it is told before every call.
    """

    shallow_order = 0.0
    config: Forecast
    account: MethodAccount
    stopped: bool
    # Of the step at hand: whether it need not always run, whether something may be learnt in it, which pictures are forecast, and what the
    # shallow calls told.
    _is_between: bool
    _learns: bool
    _decided: dict[int, bool]
    _shallow: ShallowCalls
    # Of the pass.
    _kept: KeptPredictions
    _pictures: dict[int, ErrorControl]

    def decides(self, moment: Moment) -> bool:
        """Whether it decides for each picture while it is drawn."""
        return not self.stopped and self._learns and not self.config.is_fixed(moment.sampler)

    def keeps_stages(self, moment: Moment) -> bool:
        """Whether what leaves the deep stages now may be of use."""
        return moment.step.index + 3 >= self._between(moment).start

    def may_be_shallow(self, moment: Moment) -> bool:
        """Whether the step is one of those in which shallow stages may be enough."""
        return self._is_between and not moment.evaluation

    def allows_shallow(self, moment: Moment, image: int, most: int) -> bool:
        """Whether picture ``image``, which is not forecast now, may run its shallow stages alone. most: how many such calls there may be
        between two whole ones."""
        if not self.may_be_shallow(moment) or self._decided.get(image):
            return False
        control, decided = self._pictures.get(image), self._shallow.decided
        if image not in decided:
            decided[image] = control is not None and control.may_run_shallow(moment.step.index, most)
        return decided[image]

    def wants_shallow_measured(self, moment: Moment) -> bool:
        """Whether it helps to know how far off a shallow call would be now."""
        return not moment.evaluation and moment.step.index + 1 in self._between(moment)

    def ran_shallow(self, moment: Moment, prediction: torch.Tensor, rows: tuple[int, ...]) -> None:
        """``rows`` (indices) ran their shallow stages alone and predicted what ``prediction`` [all rows, ...] holds."""
        values = self._values(moment, prediction, rows)
        if values is None:
            return
        layout = Layout(moment.rows[index] for index in rows)
        self._kept.put_shallow(moment, layout, values)
        self._shallow.ran(layout)
        for row in layout:
            self.account.served(moment.pass_and_step, max(picture_of(row), 0), ran=True)

    def measured_shallow(self, moment: Moment, prediction: torch.Tensor, rows: tuple[int, ...]) -> None:
        """``rows`` (indices), which ran in whole, would have predicted ``prediction`` [all rows, ...] with their shallow stages alone."""
        values = self._kept.values(moment, prediction, rows)
        layout = Layout(moment.rows[index] for index in rows)
        self._shallow.measured(moment, layout, None if values is None else self._kept.errors_of(moment, layout, values))

    def _between(self, moment: Moment) -> range:
        """The steps that need not always run."""
        raise NotImplementedError

    def _values(self, moment: Moment, prediction: torch.Tensor, rows: tuple[int, ...]) -> torch.Tensor | None:
        """``prediction`` of these rows as it is continued; None, and nothing more in this step, where the noise level is not known."""
        raise NotImplementedError
