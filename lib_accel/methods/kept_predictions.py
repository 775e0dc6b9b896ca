"""What was predicted for each row, as it is continued from step to step: kept, handed out as a forecast, and compared with what came."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import torch

from ..core.noise import Noise
from ..core.row_history import Kept, RowHistory
from ..core.rows import Layout, Row
from ..engine.contract import Moment
from .forecast_passes import sigma_of
from .forecast_units import as_continued, as_prediction
from .guided_error import picture_of

if TYPE_CHECKING:
    from .forecast import Forecast

# Places of `RowHistory`: what whole calls predicted, and, from the last of them on, what those of the shallow stages alone did.
WHOLE, SINCE = "whole", "since"


class KeptPredictions:
    """The last two predictions of every row from whole calls, and from shallow ones since the last of these."""

    def __init__(self, config: Forecast) -> None:
        self._config = config
        self._history = RowHistory(depth=2)

    def __len__(self) -> int:
        return len(self._history)

    @property
    def nbytes(self) -> int:
        """Memory, in bytes."""
        return self._history.nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._history.clear()

    def under(self, key: Hashable) -> bool:
        """See `RowHistory.under`."""
        return self._history.under(key)

    def order(self, moment: Moment) -> float:
        """Of the forecast with the sampler at work."""
        return self._config.order_of(moment.sampler)

    def values(self, moment: Moment, prediction: torch.Tensor, rows: Sequence[int]) -> torch.Tensor | None:
        """``prediction`` [all rows, ...] for these rows (indices) as it is continued; None where the noise level is not known."""
        taken = list(rows)
        return as_continued(moment, prediction[taken], _noise(moment), moment.sample[taken])

    def put(self, moment: Moment, rows: Layout, values: torch.Tensor) -> None:
        """Whole calls of ``rows`` predicted these ``values`` [rows, ...], from which they are continued."""
        self._history.drop(SINCE, rows)
        self._history.put(WHOLE, rows, values, _level(moment))

    def put_shallow(self, moment: Moment, rows: Layout, values: torch.Tensor) -> None:
        """Shallow calls of ``rows`` did. Until their next whole call they are continued from this, too."""
        for row, value in zip(rows, values):
            if not self._history.newest(SINCE, row):
                for last in self._history.newest(WHOLE, row):
                    self._history.put(SINCE, Layout([row]), last.tensor[None], last.coordinate)
            self._history.put(SINCE, Layout([row]), value[None], _level(moment))

    def forecast(self, moment: Moment, index: int) -> torch.Tensor:
        """[channels, h, w] what row ``index`` is forecast to predict."""
        kept = self._continued(moment, moment.rows[index])
        return as_prediction(moment, kept, _noise(moment), moment.sample[index : index + 1])[0]

    def is_ready(self, moment: Moment, row: Row, image: int) -> bool:
        """Whether ``row`` can be continued, and from when its picture ``image`` ran last."""
        kept = self._newest(row, 2)
        return len(kept) >= self._needed(moment) and kept[0].coordinate == self._newest_level(image)

    def errors(self, moment: Moment, rows: Layout, values: torch.Tensor) -> torch.Tensor | None:
        """Forecasts of ``rows`` less the ``values`` that came [rows, ...]; None where it takes more calls to tell."""
        if any(len(self._newest(row, 2)) < self._needed(moment) for row in rows):
            return None
        return _less([self._continued(moment, row) for row in rows], values)

    def errors_of(self, moment: Moment, rows: Layout, values: torch.Tensor) -> torch.Tensor | None:
        """What whole calls predicted for ``rows`` at this noise level, less ``values`` [rows, ...]; None where none did."""
        newest = [self._history.newest(WHOLE, row) for row in rows]
        if any(not kept or kept[0].coordinate != _level(moment) for kept in newest):
            return None
        return _less([self._history.at(WHOLE, [row]) for row in rows], values)

    def _newest(self, row: Row, count: int = 1) -> list[Kept]:
        return self._history.newest(SINCE, row, count) or self._history.newest(WHOLE, row, count)

    def _continued(self, moment: Moment, row: Row) -> torch.Tensor:
        place = SINCE if self._history.newest(SINCE, row) else WHOLE
        return self._history.at(place, [row], _level(moment), self.order(moment))

    def _needed(self, moment: Moment) -> int:
        return 2 if self.order(moment) else 1

    def _newest_level(self, image: int) -> float | None:
        rows = (row for row in self._history.rows(WHOLE) if picture_of(row) == image)
        return min((self._newest(row)[0].coordinate for row in rows), default=None)


def _less(parts: Sequence[torch.Tensor], values: torch.Tensor) -> torch.Tensor | None:
    """[rows, ...] one row each less ``values``; None where their shapes differ."""
    return None if any(part.shape[1:] != values.shape[1:] for part in parts) else torch.cat(list(parts)) - values


def _noise(moment: Moment) -> Noise:
    return Noise(moment.predicts, sigma_of(moment), moment.mixed)


def _level(moment: Moment) -> float | None:
    """What predictions are continued along."""
    return _noise(moment).along
