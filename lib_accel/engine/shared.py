"""What the calls of a pipeline's two models have in common."""

from __future__ import annotations

import weakref

from torch import nn

from ..core.conditions import Conditions
from .stopwatch import Stopwatch
from .tally import Tally


class Shared:
    """tally, watch: what was counted and timed. conditions: under which the calls of the pass ran."""

    def __init__(self) -> None:
        self.tally, self.watch, self.conditions = Tally(), Stopwatch(), Conditions()
        self._at_work: weakref.ref | None = None

    def turns_to(self, unet: nn.Module) -> bool:
        """Whether the call before was one of another model."""
        before, self._at_work = self._at_work, weakref.ref(unet)
        return before is not None and before() is not unet
