"""tomesd, the token merging that most people have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from lib_accel.core.sites import find_unet


@contextmanager
def tomesd_merging(model: Any) -> Iterator[None]:
    """tomesd with half of the tokens merged and its own defaults."""
    import tomesd

    # tomesd knows a diffusers U-Net as it is, an LDM one only inside its model.
    unet = target = find_unet(model)
    if not hasattr(unet, "down_blocks"):
        target = nn.Module()
        target.model = nn.Module()
        target.model.diffusion_model = unet
    tomesd.apply_patch(target, ratio=0.5)
    try:
        yield
    finally:
        tomesd.remove_patch(target)
