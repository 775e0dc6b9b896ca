"""The end of a pass that nobody announces: a pipeline's loop may end before its schedule does (an interrupt, an error)."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .clock import Whereabouts


class EndOfPass:
    """A loop keeps the latents that it gave the U-Net until it goes on or ends, so when those are gone it is asked for.

    is_at_work: whether it goes on. end: what is called when it does not.
    """

    def __init__(self, where: Whereabouts, is_at_work: Callable[[], bool], end: Callable[[], None]) -> None:
        self._where, self._is_at_work, self._end = where, is_at_work, end
        self._last_sample: weakref.ref | None = None

    def watch(self, sample: torch.Tensor) -> None:
        """A call is given ``sample``."""
        self._last_sample = None
        if not self._where.in_loop:
            return
        mine, number = weakref.ref(self), self._where.passes

        def gone(_: weakref.ref) -> None:
            end = mine()
            if end is not None and not sys.is_finalizing():
                end._is_gone(number)

        self._last_sample = weakref.ref(sample, gone)

    def _is_gone(self, number: int) -> None:
        if self._where.passes == number and not self._is_at_work():
            self._end()
