"""What `auto` decides during a run, and how the decision is kept for the report."""

from __future__ import annotations

from typing import Any

import torch

from ..core.fields import SettingError, plain
from ..core.sites import Site
from ..ops.levels import grid_at
from .thresholds import Thresholds, thresholds_for


class AutoChoice:
    """Decides by a table of thresholds whether a method acts at a level; without one it always does."""

    def __init__(self, wanted: bool | Thresholds, fused: bool) -> None:
        """wanted: True for this machine's table, False for none, or a table; SettingError for anything else. fused: the kind of attention
        kernel in force."""
        wanted = plain(wanted)
        if not isinstance(wanted, (bool, Thresholds)):
            raise SettingError(f"auto is {wanted!r}; it must be True, False, None or Thresholds.")
        self._thresholds = wanted if isinstance(wanted, Thresholds) else None
        self._look_up = wanted is True
        # The device whose table it is: a model may go to another one.
        self._device: str | None = None
        self._fused = fused
        self.complaints: set[str] = set()

    def refusal(self, method: str, site: Site, sample: torch.Tensor) -> str | None:
        """Why ``method`` stands down at ``site`` for latents ``sample`` [rows, channels, h, w] (a clause), or None when it acts."""
        if self._look_up and sample.device.type != self._device:
            self._device = sample.device.type
            self._thresholds, complaint = thresholds_for(sample.device, self._fused)
            self.complaints |= {complaint} - {None}
        if self._thresholds is None:
            return None
        h, w = grid_at(*sample.shape[-2:], site.level)
        return self._thresholds.refusal(method, h * w)

    def as_dict(self) -> dict[str, Any] | None:
        """The table that decided; None when none did."""
        return None if self._thresholds is None else self._thresholds.as_dict()
