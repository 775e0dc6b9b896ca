"""Queries, keys and values of source rows, for edited rows of the same step that come in a later U-Net call."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch

from ..core.rows import Layout, Row, RowStore
from ..engine.moments import LayerAtWork, UNetCall
from .maps import key_of


class Heads(NamedTuple):
    """q: [B, heads, N, d]. k, v: [B, heads, K, d]; without B for one row."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor

    def of(self, row: int) -> Heads:
        return Heads(*(tensor[row] for tensor in self))


def projected(call: UNetCall, layer: LayerAtWork, context: torch.Tensor) -> Heads:
    """Queries, keys and values of a layer, by its own projections, called as modules. context: [B, K, C] what it looks at."""
    attn, backend = layer.module, call.backend
    for_keys, for_values = call.traits.kv_inputs(attn, context)
    q, k, v = attn.to_q(layer.x), attn.to_k(for_keys), attn.to_v(for_values)
    return Heads(*(backend.split_heads(attn, tensor) for tensor in (q, k, v)))


class SourceRows:
    """What is kept of one step. Where source and edited rows share a call, nothing is."""

    def __init__(self, edits: Sequence[Any]) -> None:
        self._edits = tuple(edits)
        self._kept = RowStore()

    def waited_for(self, rows: Layout) -> list[int]:
        """The rows of a call whose heads an edited row that is not in it may ask for."""
        have = {key_of(row) for row in rows if row.role == "cond"}
        images = {image for image, _ in have}
        sources = {edit.source for edit in self._edits if not (edit.image in images and self._together(edit, have))}
        return [index for index, row in enumerate(rows) if row.role == "cond" and row.image in sources]

    def _together(self, edit: Any, have: set[tuple[int, int]]) -> bool:
        """Whether every part of ``edit`` is in the call with its source's."""
        parts = {part for image, part in have if image == edit.source}
        return all((edit.image, part) in have for part in parts if part < len(edit.mixings))

    def keep(self, layer: Hashable, rows: Layout, which: Sequence[int], heads: Heads) -> None:
        """Keep copies of these rows' heads at ``layer`` (a view would hold the memory of all)."""
        for index in which:
            for name, tensor in zip(Heads._fields, heads):
                self._kept.put((layer, name), Layout([rows[index]]), tensor[index : index + 1].clone())

    def find(self, layer: Hashable, rows: Layout, key: tuple[int, int], heads: Heads) -> Heads | None:
        """The heads of the conditional row ``key`` (image, part): of this call, or kept from an earlier one of this step; None if neither
        is there, or if it does not fit (another size).
        """
        for index, row in enumerate(rows):
            if row.role == "cond" and key_of(row) == key:
                return heads.of(index)
        kept = [self._kept.get((layer, name), Layout([Row("cond", *key)])) for name in Heads._fields]
        if any(one is None or one.shape[1:] != tensor.shape[1:] or one.device != tensor.device for one, tensor in zip(kept, heads)):
            return None
        return Heads(*(one[0] for one in kept))

    def clear(self) -> None:
        self._kept.clear()

    @property
    def nbytes(self) -> int:
        """Memory of what is kept, in bytes."""
        return self._kept.nbytes
