"""Rows as data: who each row of a U-Net batch belongs to, which rows run, and tensors kept per row.

Hosts order and split guided batches differently (diffusers puts the unconditional half first, the WebUI puts it last and may use
several U-Net calls). Whatever outlives one call is therefore kept per row, never per half of a batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from .reasons import Reason

Role = Literal["cond", "uncond", "image", "unknown"]


def guidance_kept(why: str) -> Reason:
    """Why no row was dropped. why: a clause."""
    return Reason.of("guidance_kept", "guidance was kept: {why}", why=why)


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


def shares_of(weights: Sequence[float]) -> list[float]:
    """What the parts of an AND prompt count, together 1, where no negative prompt runs: by their weights. One with a negative weight is a
    negative prompt, too, and counts nothing; all count alike where no weight is positive."""
    kept = [max(weight, 0.0) for weight in weights]
    total = sum(kept)
    return [weight / total for weight in kept] if total > 1e-6 else [1 / len(kept)] * len(kept)


class Layout(tuple):
    """The rows of one U-Net call, in batch order. why_unknown: a clause where rows are unknown and somebody knows why."""

    why_unknown: str | None = None

    def __new__(cls, rows: Iterable[Row]) -> Layout:
        return super().__new__(cls, rows)

    @classmethod
    def unknown(cls, count: int, offset: int = 0, why: str | None = None) -> Layout:
        """``count`` rows nobody described; ``offset`` rows of the same step went before them. why: a clause."""
        layout = cls(Row("unknown", offset + i) for i in range(count))
        layout.why_unknown = why
        return layout

    @classmethod
    def guided(cls, count: int) -> Layout:
        """``count`` rows (even) in diffusers' order: one ``uncond`` row per image, then one ``cond`` row per image."""
        images = count // 2
        return cls([Row("uncond", i) for i in range(images)] + [Row("cond", i) for i in range(images)])

    @property
    def known(self) -> bool:
        return all(row.role != "unknown" for row in self)


@dataclass(frozen=True)
class RowPlan:
    """Which rows of a batch run, and whose output every row gets. ValueError when a kept row would not get its own.

    keep: indices of the rows that run, in ascending order, at least one. fill: for every row of the batch the place in ``keep`` whose
    output it gets.
    exact: whether a host's own formula, u + w * (c - u), gives exactly the kept prediction from rows filled like this. It does not when one
    image has several AND parts: a host then combines the parts itself, at scale 1.
    """

    keep: tuple[int, ...]
    fill: tuple[int, ...]
    exact: bool = True

    def __post_init__(self) -> None:
        ascending = list(self.keep) == sorted(set(self.keep)) and set(self.keep) <= set(range(len(self.fill)))
        own = ascending and all(self.fill[row] == place for place, row in enumerate(self.keep))
        if not self.keep or not own or not set(self.fill) <= set(range(len(self.keep))):
            raise ValueError(f"RowPlan keeps {self.keep} and fills {self.fill}; kept rows get their own output, others that of a kept row.")

    @property
    def dropped(self) -> int:
        return len(self.fill) - len(self.keep)


def without_guidance(rows: Layout, branch: Role = "cond") -> tuple[RowPlan | None, str | None]:
    """How to run ``rows`` without guidance: only those of ``branch`` (``cond`` or ``uncond``) run, and stand for their images' others.

    None when nothing can go, and then a clause that says why, or None when there is simply nothing to drop.
    """
    if not rows.known:
        return None, rows.why_unknown or Reason.of("rows_unknown", "it is not known which rows are conditional")
    if any(row.role == "image" for row in rows):
        return None, Reason.of("image_guidance", "the model guides by an image too")
    if not any(row.role == "uncond" for row in rows):
        return None, None
    place: dict[int, int] = {}
    keep = tuple(index for index, row in enumerate(rows) if row.role == branch)
    for at, index in enumerate(keep):
        place.setdefault(rows[index].image, at)
    if any(row.image not in place for row in rows) or len(keep) == len(rows):
        return None, Reason.of("separate_calls", "the unconditional rows came in a call of their own")
    own = {index: at for at, index in enumerate(keep)}
    fill = tuple(own.get(index, place[row.image]) for index, row in enumerate(rows))
    several = branch == "cond" and len(place) < len(keep)
    return RowPlan(keep, fill, exact=not several), None


class RowStore:
    """Tensors kept per (site, row). A stored row is only ever given back to the same row, so nothing is broadcast or mixed."""

    def __init__(self) -> None:
        self._sites: dict[Hashable, dict[tuple[str, int, int], tuple[Row, torch.Tensor]]] = {}

    def put(self, site: Hashable, layout: Layout, tensor: torch.Tensor) -> None:
        """Keep ``tensor`` [rows, ...], one slice per row of ``layout``. ValueError when the counts differ."""
        if tensor.shape[0] != len(layout):
            raise ValueError(f"A tensor of {tensor.shape[0]} rows cannot be kept for a layout of {len(layout)} rows.")
        kept = self._sites.setdefault(site, {})
        for row, value in zip(layout, tensor):
            kept[row.key] = (row, value)

    def get(self, site: Hashable, layout: Layout) -> torch.Tensor | None:
        """[rows, ...] in ``layout``'s order, or None unless every row is there with equal shape, dtype and device."""
        kept = self._sites.get(site, {})
        if not layout or any(row.key not in kept for row in layout):
            return None
        values = [kept[row.key][1] for row in layout]
        first = values[0]
        if any(v.shape != first.shape or v.dtype != first.dtype or v.device != first.device for v in values):
            return None
        return torch.stack(values)

    def rows(self, site: Hashable) -> Layout:
        """The rows kept for ``site``, as they were put."""
        return Layout(row for row, _ in self._sites.get(site, {}).values())

    def drop(self, site: Hashable, layout: Iterable[Row]) -> None:
        """Forget these rows of ``site``."""
        for row in layout:
            self._sites.get(site, {}).pop(row.key, None)

    def clear(self) -> None:
        self._sites.clear()

    @property
    def nbytes(self) -> int:
        """Memory of the kept values, in bytes."""
        return sum(value.numel() * value.element_size() for kept in self._sites.values() for _, value in kept.values())

    def __len__(self) -> int:
        return sum(map(len, self._sites.values()))
