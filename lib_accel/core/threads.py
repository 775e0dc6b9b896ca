"""Whether a module is being called at this moment, in a thread."""

from __future__ import annotations

import sys
import threading

from torch import nn


def is_inside(thread: int | None, module: nn.Module, times: int = 1) -> bool:
    """Whether ``thread`` (an ident) is inside a call of ``module`` now; ``times`` 2: inside a call within a call.

    A flag would not do: an interrupt can end a call without its post-hook, and the thread may live on in a pool.
    """
    frame = sys._getframe() if thread == threading.get_ident() else sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_name == "_call_impl" and frame.f_locals.get("self") is module:
            times -= 1
            if times == 0:
                return True
        frame = frame.f_back
    return False
