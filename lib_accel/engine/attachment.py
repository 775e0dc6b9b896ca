"""What of an accelerator is on its U-Net between calls: two inert hooks, and a forward that passes on where whole calls may be served."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

from .call_forward import CallForward
from .copying import clean_copies, drop_clean_copies


class Attachment:
    """Put on a U-Net, which is held weakly, and taken off again, any number of times.

    enter, leave: its pre-hook and its post-hook, both with keyword arguments. serve: see `CallForward`; None where no call is served.
    before_copy: runs before the U-Net is copied.
    """

    def __init__(
        self, unet: nn.Module, enter: Callable, leave: Callable, serve: Callable[..., Any] | None, before_copy: Callable[[], None]
    ) -> None:
        self._unet = weakref.ref(unet)
        self._enter, self._leave, self._serve, self._before_copy = enter, leave, serve, before_copy
        self._handles: list[Any] = []
        # Whether it is on; a last post-hook may be left when it is not.
        self.is_on = False
        self._forward: CallForward | None = None

    def put(self, serves: bool = True) -> None:
        """Put everything on. serves: the forward, too, if there is one."""
        unet = self._unet()
        self.drop_hooks()
        self.is_on = True
        self._handles = [
            unet.register_forward_pre_hook(self._enter, with_kwargs=True),
            unet.register_forward_hook(self._leave, with_kwargs=True, always_call=True),
        ]
        clean_copies(unet, [handle.id for handle in self._handles], self._before_copy)
        if serves and self._serve is not None:
            self._forward = CallForward(unet, self._serve)
            self._forward.put()

    def take_off(self, but_post_hook: bool) -> None:
        """Take everything off. but_post_hook: a call under way still needs that; it calls `drop_hooks` itself."""
        self.is_on = False
        handles, self._handles = self._handles, self._handles[1:] if but_post_hook else []
        for handle in handles[: len(handles) - len(self._handles)]:
            handle.remove()
        if self._forward is not None:
            self._forward.end()
            self._forward = None
        unet = self._unet()
        if unet is not None:
            drop_clean_copies(unet)

    def serves_calls(self) -> bool:
        """Whether a call that is about to run comes through our forward."""
        return self._forward is not None and self._forward.is_on()

    @property
    def is_outermost(self) -> bool:
        """Whether nobody put a forward over ours."""
        return self._forward.is_outermost

    def drop_hooks(self) -> None:
        """Take off what is left of the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
