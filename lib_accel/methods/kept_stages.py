"""What leaves the deep stages, as it is served later: kept of each row, continued along sigma, and compared with what came."""

from __future__ import annotations

from collections.abc import Hashable

import torch

from ..core.row_history import RowHistory
from ..core.rows import Layout, Row

HIDDEN = "hidden"


class KeptStages:
    """order: 1 continues along the line through the last two, 0 holds the last. offload: see `RowHistory`."""

    def __init__(self, order: float = 0.0, offload: bool = False) -> None:
        self.order = order
        self._history = RowHistory(2 if order else 1, offload)
        # The step in which each row was kept last, and by how much of its size what is served is off a step later, by picture.
        self._kept_at: dict[tuple[str, int, int], int] = {}
        self._drift: dict[int, float] = {}
        # The step in which that was measured: a picture's rows may come in several calls.
        self._drift_at: dict[int, int] = {}

    @property
    def depth(self) -> int:
        """How many are kept of a row."""
        return self._history.depth

    @property
    def nbytes(self) -> int:
        """Memory, in bytes."""
        return self._history.nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._history.clear()
        self._kept_at.clear()
        self._drift.clear()
        self._drift_at.clear()

    def under(self, key: Hashable) -> bool:
        """See `RowHistory.under`."""
        return self._history.under(key)

    def put(self, step: int, rows: Layout, out: torch.Tensor, sigma: float | None) -> None:
        """``out`` [rows, C, h, w] left the deep stages in this step."""
        self._history.put(HIDDEN, rows, out, sigma or 0.0)
        self._kept_at.update({row.key: step for row in rows})

    def at(self, rows: Layout, sigma: float | None) -> torch.Tensor | None:
        """[rows, C, h, w] what would be served to ``rows`` now; None unless every row was kept."""
        return self._history.at(HIDDEN, rows, sigma or 0.0, self.order if sigma is not None else 0)

    def step_of(self, row: Row) -> int | None:
        """The step in which ``row`` was kept last."""
        return self._kept_at.get(row.key)

    def drift(self, image: int) -> float | None:
        """By how much of its size what is served to a picture was off, by step; None where that was not measured."""
        return self._drift.get(image)

    def measure(self, step: int, rows: Layout, out: torch.Tensor, sigma: float | None) -> None:
        """How far off each picture's rows would have been, had they been served in place of ``out`` now."""
        drift: dict[int, float] = {}
        for index, row in enumerate(rows):
            would = self.at(Layout([row]), sigma)
            steps = step - self._kept_at.get(row.key, step)
            if would is not None and would.shape[1:] == out.shape[1:] and steps > 0:
                truth = out[index].float()
                error = float((would[0].float() - truth).norm() / truth.norm().clamp_min(1e-12)) / steps
                drift[row.image] = max(drift.get(row.image, 0.0), error)
        for image, error in drift.items():
            same_step = self._drift_at.get(image) == step
            self._drift[image], self._drift_at[image] = max(error, self._drift[image]) if same_step else error, step
