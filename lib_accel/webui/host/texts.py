"""Whether a step's texts are those of the step before, as its prompts say. CADS, for one, draws new noise into them in every early step."""

from __future__ import annotations

from typing import Any

import torch

from ...core.conditions import tensors_in
from ...core.reasons import Reason

CHANGED = Reason.of("texts_changed", "another extension changed the prompts during the pass: what was kept was discarded")


class Texts:
    """Those of one pass. changes: how often others changed them so far."""

    def __init__(self) -> None:
        self._last: tuple[torch.Tensor, ...] | None = None
        self.changes = 0

    def see(self, params: Any, stay: bool) -> None:
        """The host is about to run a step on them. stay: its prompts are those of the step before. A GPU is waited for."""
        now, last = tensors_in(params.text_cond, params.text_uncond), self._last
        if stay and last is not None and not (len(now) == len(last) and all(map(_equal, now, last))):
            self.changes += 1
        self._last = now


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one is other or (one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other))
