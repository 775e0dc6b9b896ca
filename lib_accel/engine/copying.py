"""Copies and pickles of a patched U-Net come out unpatched."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

from .instance_forward import InstanceForward, below

_HOOK_TABLES = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


class _CleanState:
    """Instance-level ``__getstate__``: what copy, deepcopy and pickle take of the module, without our hooks, forward and itself."""

    def __init__(self, unet: nn.Module, handles: list, sweep: Callable[[], None]) -> None:
        self._own = unet.__dict__.get("__getstate__")
        self._unet = weakref.ref(unet)
        self._ids = {handle.id for handle in handles}
        self._sweep = sweep

    def __call__(self) -> Any:
        # A copy made while a call is open would take its wrappers along; leftovers of an interrupt likewise.
        self._sweep()
        state = self._state()
        if not isinstance(state, dict):
            return state
        state = dict(state)
        if self._own is None:
            state.pop("__getstate__", None)
        elif "__getstate__" in state:
            state["__getstate__"] = self._own
        if isinstance(state.get("forward"), InstanceForward):
            state["forward"] = below(state["forward"])
            if state["forward"] is None:
                del state["forward"]
        for table in _HOOK_TABLES:
            if table in state:
                state[table] = type(state[table])((k, v) for k, v in state[table].items() if k not in self._ids)
        return state

    def _state(self) -> Any:
        """What a copy would take without us."""
        of_class = getattr(type(self._unet()), "__getstate__", None)
        if self._own is not None:
            return self._own()
        if of_class is None or of_class is getattr(object, "__getstate__", None):
            return self._unet().__dict__
        return of_class(self._unet())

    def undo(self) -> None:
        unet = self._unet()
        if unet.__dict__.get("__getstate__") is self:
            del unet.__dict__["__getstate__"]
            if self._own is not None:
                unet.__dict__["__getstate__"] = self._own


def clean_copies(unet: nn.Module, handles: list, sweep: Callable[[], None]) -> None:
    """From now on copies of ``unet`` lack the hooks of ``handles`` and our forward. ``sweep`` runs before each copy."""
    unet.__dict__["__getstate__"] = _CleanState(unet, handles, sweep)


def drop_clean_copies(unet: nn.Module) -> None:
    """Undo `clean_copies`."""
    state = unet.__dict__.get("__getstate__")
    if isinstance(state, _CleanState):
        state.undo()
