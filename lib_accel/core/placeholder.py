"""What a stage that does not run returns to code that goes on with it: a tensor that is never read."""

from __future__ import annotations

from typing import Any

import torch

# What may be asked of it like of any tensor; properties (shape, dtype, device) besides.
_ASKS = frozenset(
    {"size", "dim", "numel", "nelement", "element_size", "is_floating_point", "is_contiguous", "stride", "__len__", "__repr__"}
)
# What may return several tensors: code that takes them apart (FreeU, max and its place) has to find as many.
_SEVERAL = frozenset({"max", "min", "sort", "topk", "kthvalue", "median", "mode", "aminmax", "std_mean", "var_mean"})
_PARTS = frozenset({"split", "chunk", "tensor_split", "unbind"})


class Placeholder(torch.Tensor):
    """A tensor of one number, with the shape of another. Whatever is computed with one is a placeholder, too, and takes no time.

    A U-Net's own code joins what stages return (skip connections, ControlNet's residuals) whether or not they ran.
    """

    @staticmethod
    def like(x: torch.Tensor) -> Placeholder:
        """One with the shape, dtype and device of ``x``."""
        if isinstance(x, Placeholder):
            return x
        return torch.empty((), dtype=x.dtype, device=x.device).expand(x.shape).as_subclass(Placeholder)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__get__" or name in _ASKS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        if name == "__iter__":
            return iter(args[0].unbind())
        if name in _SEVERAL or name in _PARTS:
            return _each_of(func, args, kwargs or {})
        return _first_in((*args, *(kwargs or {}).values()))


def _each_of(func: Any, args: tuple, kwargs: dict) -> Any:
    """Placeholders for all that ``func`` returns; of tensors without numbers it tells how many that are, and their shapes."""
    result = func(*(_without_numbers(value) for value in args), **{name: _without_numbers(value) for name, value in kwargs.items()})
    like = _first_in((*args, *kwargs.values()))
    if isinstance(result, torch.Tensor):
        return _as_placeholder(result, like)
    return type(result)(_as_placeholder(one, like) for one in result)


def _as_placeholder(result: torch.Tensor, like: Placeholder) -> Placeholder:
    with torch._C.DisableTorchFunctionSubclass():
        number = torch.empty((), dtype=result.dtype, device=like.device)
    return Placeholder.like(number.expand(result.shape))


def _without_numbers(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    with torch._C.DisableTorchFunctionSubclass():
        return torch.empty(value.shape, dtype=value.dtype, device="meta")


def _first_in(values: Any) -> Placeholder | None:
    for value in values:
        if isinstance(value, Placeholder):
            return value
        found = _first_in(value) if isinstance(value, (tuple, list)) else None
        if found is not None:
            return found
    return None
