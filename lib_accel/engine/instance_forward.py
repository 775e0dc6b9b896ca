"""What stands in the place of a module's forward: on a layer, a stage or the whole U-Net."""

from __future__ import annotations

import inspect
import weakref
from typing import Any

from torch import nn


class InstanceForward:
    """An instance-level ``forward`` of ours. What was there before (somebody else's, or the class's) runs wherever nothing is replaced."""

    # Without slots, whoever wraps it with functools.wraps takes a copy of all it holds, and keeps the accelerator alive.
    __slots__ = ("__weakref__", "_module", "previous")

    def __init__(self, module: nn.Module) -> None:
        self.previous = module.__dict__.get("forward")
        self._module = weakref.ref(module)

    @property
    def module(self) -> nn.Module | None:
        """The module that it is on; None when that is gone."""
        return self._module()

    def put(self) -> None:
        """Take the module's forward."""
        self._module().__dict__["forward"] = self

    def take_off(self) -> None:
        """Give the module its forward back. A forward that somebody put over ours meanwhile stays; ours, below it, only passes on."""
        module = self._module()
        if module is not None and self.is_outermost:
            unwrap(module)

    @property
    def __signature__(self) -> inspect.Signature | None:
        """That of what was there: pipelines ask a model's forward what it takes. Of a module that is gone there is none."""
        module = self._module()
        if self.previous is None and module is None:
            return None
        return inspect.signature(self.previous if self.previous is not None else type(module).forward.__get__(module))

    @property
    def is_outermost(self) -> bool:
        """Whether nobody put a forward over this one."""
        module = self._module()
        return module is not None and module.__dict__.get("forward") is self

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """Whoever keeps ours (accelerate's offloading, enabled while it was on) has what lies below it in a copy of the module."""
        forward = below(self)
        return _itself, (type(self._module()).forward.__get__(self._module()) if forward is None else forward,)

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """The forward that the module had; its class's as it is now."""
        if self.previous is not None:
            return self.previous(*args, **kwargs)
        module = self._module()
        return type(module).forward(module, *args, **kwargs)


def _itself(forward: Any) -> Any:
    return forward


def unwrap(module: nn.Module) -> None:
    """Take ours off ``module``; also one of an earlier call that somebody kept and put back. Others' forwards stay."""
    forward = module.__dict__.get("forward")
    if isinstance(forward, InstanceForward):
        forward = below(forward)
        if forward is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = forward


def below(forward: Any) -> Any:
    """The forward below ours; None where that is the class's."""
    while isinstance(forward, InstanceForward):
        forward = forward.previous
    return forward
