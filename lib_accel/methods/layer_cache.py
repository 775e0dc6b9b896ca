"""Outputs of layers kept per row and served to the same rows later, as they are or combined for their picture."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import torch

from ..core.row_history import RowHistory
from ..core.rows import Layout, Row, shares_of


class LayerCache:
    """Layer outputs [tokens, C] per row. Rows that were not kept are never served from others': nothing is broadcast.

    mean: a conditional row gets the half-sum of its own and its picture's unconditional output (published); without that, its own.
    for_uncond: unconditional rows get what their picture's conditional rows get, by weight; otherwise their own.
    uncond_goes: unconditional rows are kept for such sums alone. offload: what is kept lies in main memory.
    """

    def __init__(self, mean: bool = False, for_uncond: bool = False, uncond_goes: bool = False, offload: bool = False) -> None:
        self.mean, self.for_uncond, self.uncond_goes = mean, for_uncond, uncond_goes
        self._store = RowHistory(offload=offload)
        self._to_combine: set[Hashable] = set()

    def keep(self, key: Hashable, rows: Layout, out: torch.Tensor, wanted: Iterable[Row], combine: bool = False) -> None:
        """Keep copies of the rows ``wanted`` of ``out`` [rows, tokens, C]. combine: by the rules above,
        when they are first served, as a step may take several calls."""
        wanted = {row.key for row in wanted}
        kept = [index for index, row in enumerate(rows) if row.key in wanted]
        for index in kept:
            self._store.put(key, Layout([rows[index]]), out[index : index + 1])
        if combine:
            self._to_combine.add(key)
        else:
            self._to_combine.discard(key)

    def lacks(self, key: Hashable, row: Row, like: torch.Tensor) -> bool:
        """Whether ``row`` cannot be served, for tokens ``like`` [rows, tokens, C]."""
        return self.serve(key, Layout([row]), like) is None

    def serve(self, key: Hashable, rows: Layout, like: torch.Tensor) -> torch.Tensor | None:
        """[rows, tokens, C] for ``rows``, a copy; None unless all are there and fit the tokens ``like`` [rows, tokens, C]."""
        if key in self._to_combine:
            self._to_combine.discard(key)
            if self.mean or self.for_uncond:
                self._combine(key)
        kept = self._store.at(key, rows)
        return kept if kept is not None and kept.shape[1] == like.shape[1] and kept.device == like.device else None

    def clear(self) -> None:
        self._store.clear()
        self._to_combine.clear()

    @property
    def nbytes(self) -> int:
        return self._store.nbytes

    def _combine(self, key: Hashable) -> None:
        """Put what rows get in the place of what they returned."""
        rows = self._store.rows(key)
        values = {row.key: self._store.at(key, [row])[0] for row in rows}
        for uncond in [row for row in rows if row.role == "uncond"]:
            parts = [row for row in rows if row.role == "cond" and row.image == uncond.image]
            own = values[uncond.key]
            if not parts or any(values[part.key].shape != own.shape for part in parts):
                continue
            shares = [values[part.key] for part in parts]
            if self.mean:
                shares = [0.5 * own + 0.5 * share for share in shares]
                for part, share in zip(parts, shares):
                    self._store.put(key, Layout([part]), share[None])
            if self.for_uncond:
                self._store.put(key, Layout([uncond]), _weighted(shares, parts)[None])
            elif self.uncond_goes:
                # A host that still runs this row gets it kept anew.
                self._store.drop(key, [uncond])


def _weighted(values: list[torch.Tensor], rows: list[Row]) -> torch.Tensor:
    """Mean of ``values`` by the rows' shares."""
    return sum(share * value for share, value in zip(shares_of([row.weight for row in rows]), values))
