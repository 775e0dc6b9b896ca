"""How far off the forecast of a picture's guided prediction was, from those of its rows, whatever calls they came in."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..core.rows import Layout, Row, shares_of
from ..engine.contract import Moment

# The picture that rows of unknown pictures belong to.
TOGETHER = -1


class GuidedError:
    """One step. step: its index."""

    def __init__(self, step: int) -> None:
        self.step = step
        self._guidance: float | None = None
        self._scales: tuple[float, float | None] | None = None
        # By picture: the rows that ran, and how far off the forecast of each was.
        self._of: dict[int, list[tuple[Row, torch.Tensor | None]]] = {}

    def add(self, moment: Moment, rows: Layout, errors: torch.Tensor | None) -> None:
        """``rows`` of ``moment`` ran. errors: [rows, channels, h, w] forecasts less what came; None where there was no forecast."""
        self._guidance, self._scales = moment.guidance, moment.scales
        for place, row in enumerate(rows):
            self._of.setdefault(picture_of(row), []).append((row, None if errors is None else errors[place]))

    @property
    def pictures(self) -> set[int]:
        """Those of which rows ran."""
        return set(self._of)

    def rows(self, picture: int) -> set[tuple[str, int, int]]:
        """The keys of the rows of ``picture`` that ran."""
        return {row.key for row, _ in self._of.get(picture, ())}

    def of(self, picture: int) -> torch.Tensor | None:
        """Root mean square of the error of its guided prediction, a tensor of one number; None where that cannot be told."""
        rows, errors = zip(*self._of[picture])
        if any(error is None for error in errors):
            return None
        if picture == TOGETHER:
            # At worst the errors of both halves point in opposite directions.
            worst = torch.stack([_rms(error) for error in errors]).amax()
            return None if self._guidance is None else worst * max(2 * self._guidance - 1, 1.0)
        weights = weights_of(rows, self._guidance, self._scales)
        return None if weights is None else _rms(sum(weight * error for weight, error in zip(weights, errors)))


def picture_of(row: Row) -> int:
    """Whose row it is; unknown rows are decided together."""
    return TOGETHER if row.role == "unknown" else row.image


def weights_of(rows: Sequence[Row], guidance: float | None, scales: tuple[float, float | None] | None) -> list[float] | None:
    """What ``rows`` of one picture, those that ran, weigh in its guided prediction; together 1: dropped rows are filled from them.

    guidance, scales: as of a `Moment`. None where nobody told by what scale they are combined.
    """
    parts = sum(row.weight for row in rows if row.role == "cond")
    if len({row.role for row in rows}) == 1:
        return shares_of([row.weight for row in rows]) if rows[0].role == "cond" else [1 / len(rows)] * len(rows)
    if scales is None and (guidance is None or not parts):
        return None
    scale, of_image = scales if scales is not None else (guidance / parts, None)
    has_image = any(row.role == "image" for row in rows)
    if has_image and of_image is None:
        return None
    weights = {"image": (of_image or 0.0) - scale * parts, "uncond": 1 - (of_image if has_image else scale * parts)}
    given = [scale * row.weight if row.role == "cond" else weights[row.role] for row in rows]
    total = sum(given)
    return [weight / total for weight in given] if total else None


def _rms(error: torch.Tensor) -> torch.Tensor:
    return error.float().square().mean().sqrt()
