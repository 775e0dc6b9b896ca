"""Calls of a forecast pass that run their shallow stages alone: between calls that run in whole and those that are forecast.

For each picture and step one decision among three: forecast it, else run the shallow stages with what was kept of the deep ones
(`DeepCache`), else run the whole U-Net. How far off a shallow call is, is measured at whole ones: the shallow stages run once more there,
on what was kept before.
"""

from __future__ import annotations

from typing import Protocol

import torch

from ..core.rows import Layout
from ..engine.contract import Moment
from .guided_error import GuidedError, picture_of


class Decides(Protocol):
    """Whoever decides which steps of a pass run. shallow_order: of what deep stages are served, 0 to 1; it is told before every call."""

    shallow_order: float

    def decides(self, moment: Moment) -> bool:
        """Whether it does so for each picture while it is drawn."""

    def allows_shallow(self, moment: Moment, image: int, most: int) -> bool:
        """Whether picture ``image``, which is not forecast now, may run its shallow stages alone. most: how many such calls there may be
        between two whole ones."""

    def wants_shallow_measured(self, moment: Moment) -> bool:
        """Whether it helps to know how far off a shallow call would be now."""

    def keeps_stages(self, moment: Moment) -> bool:
        """Whether what leaves the deep stages now may be of use."""

    def ran_shallow(self, moment: Moment, prediction: torch.Tensor, rows: tuple[int, ...]) -> None:
        """``rows`` (indices) ran their shallow stages alone and predicted what ``prediction`` [all rows, ...] holds."""

    def measured_shallow(self, moment: Moment, prediction: torch.Tensor, rows: tuple[int, ...]) -> None:
        """``rows`` (indices), which ran in whole, would have predicted ``prediction`` [rows, ...] with their shallow stages alone."""


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

    def error_of(self, picture: int) -> torch.Tensor | None:
        """How far off its guided prediction would have been; None where that was not measured."""
        return self._errors.of(picture) if picture in self._errors.pictures else None
