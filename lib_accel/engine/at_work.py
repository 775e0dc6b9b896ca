"""Which accelerator is at work on which U-Net: at most one; a new one replaces it, or stands in for it for a while."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from ..core.sites import find_unet

if TYPE_CHECKING:
    from .accelerator import Accelerator

_ACCELERATORS: weakref.WeakKeyDictionary[nn.Module, Accelerator] = weakref.WeakKeyDictionary()


def accelerator_of(unet: nn.Module) -> Accelerator | None:
    """The accelerator at work on ``unet``, if any."""
    return _ACCELERATORS.get(unet)


def begins(unet: nn.Module, accelerator: Accelerator) -> None:
    """From now on ``accelerator`` is at work on ``unet``; whichever was is removed."""
    before = accelerator_of(unet)
    if before is not None and before is not accelerator:
        before.is_replaced()
    _ACCELERATORS[unet] = accelerator


def ends(unet: nn.Module, accelerator: Accelerator) -> None:
    """``accelerator`` is at work on ``unet`` no more."""
    if accelerator_of(unet) is accelerator:
        del _ACCELERATORS[unet]


@contextmanager
def stood_aside(model: Any) -> Iterator[None]:
    """Inside, ``model`` is as it is without its accelerator, and may be given another one. Afterwards, also after an error, its own one
    goes on, unless it was removed meanwhile or another one is at work then, which replaces it.
    """
    unet = find_unet(model)
    before = accelerator_of(unet)
    if before is not None:
        before.stand_aside()
    try:
        yield
    finally:
        if before is not None:
            before.go_on()
