"""How finely a device computes: float32 that stays float32, and float64 where there is one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device_type: str) -> AbstractContextManager:
    """Autocast off: it would put matrix products of float32 tensors into half precision."""
    try:
        return torch.autocast(device_type, enabled=False)
    except (RuntimeError, AssertionError):  # Torch has no autocast on this device (MPS once, DirectML), so none is on.
        return nullcontext()


def finest(device_type: str) -> torch.dtype:
    """float64; float32 on devices that lack it: all of Apple's, and some of Intel's."""
    return torch.float32 if device_type in ("mps", "xpu") else torch.float64
