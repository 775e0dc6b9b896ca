"""Copies and pickles of a patched U-Net come out unpatched, also those that are made during a call of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
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

    def __init__(self, module: nn.Module, ids: Iterable[int], before: Callable[[], None]) -> None:
        self._own = module.__dict__.get("__getstate__")
        self._module = weakref.ref(module)
        self._ids = set(ids)
        self._before = before

    def __call__(self) -> Any:
        self._before()
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
        of_class = getattr(type(self._module()), "__getstate__", None)
        if self._own is not None:
            return self._own()
        if of_class is None or of_class is getattr(object, "__getstate__", None):
            return self._module().__dict__
        return of_class(self._module())

    def undo(self) -> None:
        module = self._module()
        if module.__dict__.get("__getstate__") is self:
            del module.__dict__["__getstate__"]
            if self._own is not None:
                module.__dict__["__getstate__"] = self._own


def clean_copies(module: nn.Module, ids: Iterable[int], before: Callable[[], None] = lambda: None) -> None:
    """From now on copies of ``module`` lack the hooks of these ids and our forward. before: runs before each copy."""
    drop_clean_copies(module)
    module.__dict__["__getstate__"] = _CleanState(module, ids, before)


def drop_clean_copies(module: nn.Module) -> None:
    """Undo `clean_copies`."""
    state = module.__dict__.get("__getstate__")
    if isinstance(state, _CleanState):
        state.undo()
