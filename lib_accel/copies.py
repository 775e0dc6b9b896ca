"""Copies and pickles of a patched U-Net come out unpatched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

_HOOK_TABLES = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


class _CleanState:
    """Instance-level ``__getstate__``: what copy, deepcopy and pickle take of the module, without our hooks and without itself."""

    def __init__(self, unet: nn.Module, handles: list, sweep: Callable[[], None]) -> None:
        self._type = type(unet)
        self._dict = unet.__dict__
        self._ids = {handle.id for handle in handles}
        self._sweep = sweep

    def __call__(self) -> dict[str, Any]:
        # A copy made while a call is open would take its wrappers along; leftovers of an interrupt likewise.
        self._sweep()
        state = dict(self._dict)
        del state["__getstate__"]
        for table in _HOOK_TABLES:
            if table in state:
                state[table] = type(state[table])((k, v) for k, v in state[table].items() if k not in self._ids)
        return state


def clean_copies(unet: nn.Module, handles: list, sweep: Callable[[], None]) -> None:
    """From now on copies of ``unet`` lack the hooks of ``handles``. ``sweep`` runs before each copy."""
    unet.__dict__["__getstate__"] = _CleanState(unet, handles, sweep)


def drop_clean_copies(unet: nn.Module) -> None:
    if isinstance(unet.__dict__.get("__getstate__"), _CleanState):
        del unet.__dict__["__getstate__"]
