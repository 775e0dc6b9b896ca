"""Float32 that stays float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device_type: str) -> AbstractContextManager:
    """Autocast off: it would put matrix products of float32 tensors into half precision."""
    try:
        return torch.autocast(device_type, enabled=False)
    except RuntimeError:  # Older torch has no autocast on this device (MPS), so none is on.
        return nullcontext()
