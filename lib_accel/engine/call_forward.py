"""What stands in the place of a U-Net's forward where a method may serve whole calls: a module's own hooks cannot keep it from running."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from torch import nn

from ..core.sites import is_tracing
from .instance_forward import InstanceForward


class CallForward(InstanceForward):
    """Instance-level ``forward`` of a U-Net, between calls too; it does nothing but pass on, unless a call is served.

    serve: the whole output of the call that is under way, None to run it. It is asked with the call's (args, kwargs).
    """

    __slots__ = ("_serve",)

    def __init__(self, unet: nn.Module, serve: Callable[[tuple, dict], Any]) -> None:
        super().__init__(unet)
        self._serve: Callable[[tuple, dict], Any] | None = serve

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_tracing():
            return self.original(*args, **kwargs)
        called = _called_from(sys._getframe(1))
        if called is not None and called is not self._module():
            # A replica (DataParallel) has a copy of what its original has.
            return type(called).forward(called, *args, **kwargs)
        if self._serve is None:
            # Somebody kept ours and put it back when it was long over.
            self.take_off()
            return self.original(*args, **kwargs)
        output = self._serve(args, kwargs)
        return self.original(*args, **kwargs) if output is None else output

    def is_on(self) -> bool:
        """Whether a call that is about to run comes through here. Where somebody took ours away (accelerate's offloading puts its own anew
        after every picture), the next one does again."""
        module = self._module()
        forward = module.__dict__.get("forward")
        lies_below, seen = forward, set()
        while lies_below is not None and id(lies_below) not in seen:
            if lies_below is self:
                return True
            seen.add(id(lies_below))
            if getattr(lies_below, "__func__", None) is type(module).forward:
                break
            lies_below = lies_below.previous if isinstance(lies_below, InstanceForward) else getattr(lies_below, "__wrapped__", None)
        else:
            if forward is not None:  # It does not say what it calls.
                return True
        self.previous = forward
        self.put()
        return False

    def end(self) -> None:
        """It is over: where it cannot be taken off, because another forward lies over it, it passes on."""
        self._serve = None
        self.take_off()


def _called_from(frame: FrameType) -> nn.Module | None:
    """The module whose call ``frame`` is, None when it is none: then somebody calls the forward itself."""
    if frame.f_code.co_name == "inner":  # Of newer torch, where there are hooks.
        frame = frame.f_back
    return frame.f_locals.get("self") if frame.f_code.co_name == "_call_impl" else None
