"""What rows were given before: the last few tensors of every row at a place, as they were or continued along a coordinate."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import torch

from .row_slicing import stacked
from .rows import Layout, Row


@dataclass(frozen=True)
class Kept:
    """One tensor of one row. device: where it came from; with offloading it lies in main memory."""

    coordinate: float
    tensor: torch.Tensor
    device: torch.device


class RowHistory:
    """The last ``depth`` (coordinate, tensor) of every row at a place. A row is only ever given its own: nothing is broadcast or mixed.

    A place is any key: a layer's name, a stage, ``"output"``. The coordinate is what values are continued along, usually sigma; a plain
    cache (depth 1, order 0) needs none. Values are copies, so that hosts may edit theirs in place.

    Args:
        depth: how many are kept, from 1. Continuing takes 2.
        offload: keep them in main memory: slower, for GPUs that are short of it.
    """

    def __init__(self, depth: int = 1, offload: bool = False) -> None:
        if depth < 1:
            raise ValueError(f"RowHistory.depth is {depth}; it must be 1 or more.")
        self.depth, self.offload = depth, offload
        self._places: dict[Hashable, dict[tuple[str, int, int], tuple[Row, deque[Kept]]]] = {}
        self._under: Hashable = None

    def put(self, place: Hashable, rows: Layout, tensor: torch.Tensor, coordinate: float = 0.0) -> None:
        """Keep ``tensor`` [rows, ...], one slice for each row. A second one at the coordinate that a row was given last replaces it.

        ValueError when the counts differ.
        """
        if tensor.shape[0] != len(rows):
            raise ValueError(f"A tensor of {tensor.shape[0]} rows cannot be kept for a layout of {len(rows)} rows.")
        kept = self._places.setdefault(place, {})
        for row, value in zip(rows, tensor):
            # A copy for each row: a view would hold the memory of all.
            copied = value.to("cpu", copy=True) if self.offload else value.clone()
            _, history = kept.get(row.key, (row, deque(maxlen=self.depth)))
            if history and history[-1].coordinate == coordinate:
                history.pop()
            history.append(Kept(coordinate, copied, value.device))
            kept[row.key] = (row, history)

    def at(self, place: Hashable, rows: Iterable[Row], coordinate: float = 0.0, order: float = 0) -> torch.Tensor | None:
        """[rows, ...] at ``coordinate``, new tensors; None unless every row was kept, with equal shape, dtype and device.

        Args:
            order: 0 holds the newest value; 1 continues the line through the two newest; 0.5 is the mean of both. A row that was kept
                once, or twice at one coordinate, is held.
        """
        kept = self._places.get(place, {})
        histories = [kept[row.key][1] if row.key in kept else None for row in rows]
        if not histories or not all(histories):
            return None
        newest = [history[-1] for history in histories]
        first = newest[0]
        if any(_kind(one) != _kind(first) for one in newest):
            return None
        return stacked([_continued(history, coordinate, order) for history in histories]).to(first.device)

    def newest(self, place: Hashable, row: Row, count: int = 1) -> list[Kept]:
        """What was kept of ``row``, the newest first, at most ``count``."""
        history = self._places.get(place, {}).get(row.key)
        return [] if history is None else list(history[1])[::-1][:count]

    def rows(self, place: Hashable) -> Layout:
        """The rows kept at ``place``, as they were put."""
        return Layout(row for row, _ in self._places.get(place, {}).values())

    def drop(self, place: Hashable, rows: Iterable[Row]) -> None:
        """Forget these rows at ``place``."""
        for row in rows:
            self._places.get(place, {}).pop(row.key, None)

    def under(self, key: Hashable) -> bool:
        """What comes now belongs to ``key`` (the size, the model, the prompts, the number of the pass). What was kept under another is
        forgotten; whether anything was."""
        changed, self._under = key != self._under, key
        forgotten = changed and bool(self._places)
        if changed:
            self._places.clear()
        return forgotten

    def clear(self) -> None:
        """Forget everything."""
        self._places.clear()

    @property
    def nbytes(self) -> int:
        """Memory of the kept values, in bytes."""
        return sum(one.tensor.numel() * one.tensor.element_size() for one in self._all())

    def __len__(self) -> int:
        """How many tensors of rows are kept."""
        return sum(1 for _ in self._all())

    def _all(self) -> Iterable[Kept]:
        return (one for kept in self._places.values() for _, history in kept.values() for one in history)


def _kind(kept: Kept) -> tuple:
    return (kept.tensor.shape, kept.tensor.dtype, kept.device)


def _continued(history: deque[Kept], coordinate: float, order: float) -> torch.Tensor:
    """One row's value at ``coordinate``; half precision is continued in float32."""
    newest = history[-1]
    before = history[-2] if len(history) > 1 else None
    if not order or before is None or _kind(before) != _kind(newest) or before.coordinate == newest.coordinate:
        return newest.tensor
    share = order * (coordinate - newest.coordinate) / (newest.coordinate - before.coordinate)
    exact = torch.promote_types(newest.tensor.dtype, torch.float32)
    value = newest.tensor.to(exact)
    return (value + share * (value - before.tensor.to(exact))).to(newest.tensor.dtype)
