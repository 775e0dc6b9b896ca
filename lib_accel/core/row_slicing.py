"""Running a U-Net on some of its rows: what it is given is cut, what it returns is filled up."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch


def cut_rows(value: Any, count: int, keep: Sequence[int]) -> Any:
    """``value`` (a U-Net's arguments, nested as they come) with the rows ``keep`` alone of every tensor whose first dimension is ``count``.

    Scalars, tensors of another first dimension (a timestep for all rows) and whatever is no tensor, tuple, list or dict stay as they are.
    """
    return _mapped(value, lambda tensor: _rows_of(tensor, keep) if _has_rows(tensor, count) else tensor)


def fill_rows(value: Any, keep: Sequence[int], fill: Sequence[int]) -> Any:
    """``value`` (a U-Net's output: a tensor, a tuple, a diffusers output) with one row per entry of ``fill``, its place in ``keep``."""
    return _mapped(value, lambda tensor: stacked([tensor[at] for at in fill]) if _has_rows(tensor, len(keep)) else tensor)


def stacked(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """[rows, ...], laid out in memory as ``rows`` are: where they come from a model in channels_last, its next layer expects that."""
    first = rows[0]
    if first.ndim == 3 and first.stride(0) == 1 and not first.is_contiguous():
        return torch.stack([row.movedim(0, -1) for row in rows]).movedim(-1, 1)
    return torch.stack(list(rows))


def prediction_of(value: Any) -> torch.Tensor | None:
    """The prediction [rows, ...] in a U-Net's output; None when there is none that Accel knows."""
    sample = getattr(value, "sample", None)
    if isinstance(sample, torch.Tensor):
        return sample
    first = value[0] if isinstance(value, (tuple, list)) and value else value
    return first if isinstance(first, torch.Tensor) else None


def _has_rows(tensor: torch.Tensor, count: int) -> bool:
    return tensor.ndim > 0 and tensor.shape[0] == count


def _rows_of(tensor: torch.Tensor, keep: Sequence[int]) -> torch.Tensor:
    """A view when the rows lie side by side, as they do in guided batches."""
    if list(keep) == list(range(keep[0], keep[-1] + 1)):
        return tensor[keep[0] : keep[-1] + 1]
    return torch.cat([tensor[row : row + 1] for row in keep])


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """``value`` with every tensor in it changed. Containers are copied, never changed in place."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        changed = copy.copy(value)
        for key, item in value.items():
            changed[key] = _mapped(item, change)
        return changed
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, change) for item in value))
    if type(value) in (tuple, list):
        return type(value)(_mapped(item, change) for item in value)
    return value
