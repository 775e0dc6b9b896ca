"""Rows as data: who each row of a U-Net batch belongs to, and tensors kept per row.

Hosts order and split guided batches differently (diffusers puts the unconditional half first, the WebUI puts it last and may use
several U-Net calls). Whatever outlives one call is therefore kept per row, never per half of a batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch

Role = Literal["cond", "uncond", "image", "unknown"]
ROLES: tuple[str, ...] = ("cond", "uncond", "image", "unknown")


@dataclass(frozen=True)
class Row:
    """One row of a U-Net batch.

    role: ``cond`` (text), ``uncond`` (negative text), ``image`` (InstructPix2Pix's middle branch) or ``unknown``.
    image: index of the picture in its batch, from 0. For ``unknown`` rows the running number of the row within its step.
    part: index of the AND sub-prompt, from 0.
    weight: weight of the sub-prompt in the guided prediction. It does not tell rows apart.
    """

    role: Role
    image: int = 0
    part: int = 0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"Row.role is {self.role!r}; it must be one of {', '.join(ROLES)}.")

    @property
    def key(self) -> tuple[str, int, int]:
        return (self.role, self.image, self.part)


class Layout(tuple):
    """The rows of one U-Net call, in batch order."""

    __slots__ = ()

    def __new__(cls, rows: Iterable[Row]) -> Layout:
        return super().__new__(cls, rows)

    @classmethod
    def unknown(cls, count: int, offset: int = 0) -> Layout:
        """``count`` rows nobody described; ``offset`` rows of the same step went before them."""
        return cls(Row("unknown", offset + i) for i in range(count))

    @classmethod
    def guided(cls, count: int) -> Layout:
        """``count`` rows (even) in diffusers' order: one ``uncond`` row per image, then one ``cond`` row per image."""
        images = count // 2
        return cls([Row("uncond", i) for i in range(images)] + [Row("cond", i) for i in range(images)])

    @property
    def known(self) -> bool:
        return all(row.role != "unknown" for row in self)


class RowStore:
    """Tensors kept per (site, row). A stored row is only ever given back to the same row, so nothing is broadcast or mixed."""

    def __init__(self) -> None:
        self._rows: dict[tuple[Hashable, tuple[str, int, int]], torch.Tensor] = {}

    def put(self, site: Hashable, layout: Layout, tensor: torch.Tensor) -> None:
        """Keep ``tensor`` [rows, ...], one slice per row of ``layout``. ValueError when the counts differ."""
        if tensor.shape[0] != len(layout):
            raise ValueError(f"A tensor of {tensor.shape[0]} rows cannot be kept for a layout of {len(layout)} rows.")
        for row, value in zip(layout, tensor):
            self._rows[site, row.key] = value

    def get(self, site: Hashable, layout: Layout) -> torch.Tensor | None:
        """[rows, ...] in ``layout``'s order, or None unless every row is there with equal shape, dtype and device."""
        values = [self._rows.get((site, row.key)) for row in layout]
        if not values or any(value is None for value in values):
            return None
        first = values[0]
        if any(v.shape != first.shape or v.dtype != first.dtype or v.device != first.device for v in values):
            return None
        return torch.stack(values)

    def clear(self) -> None:
        self._rows.clear()

    def __len__(self) -> int:
        return len(self._rows)
