"""The random generators that a process shares. The host's jobs draw from them: img2img's encoder, noise of samplers, other scripts."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def kept() -> Callable[[], None]:
    """Puts every one of them back to where it is now, whenever it is called."""
    states = [(put, copy.deepcopy(get())) for get, put in _known()]

    def put_back() -> None:
        for put, state in states:
            put(copy.deepcopy(state))

    return put_back


def _known() -> list[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """(reads the state, sets it) of each."""
    known: list[tuple[Any, Any]] = [
        (random.getstate, random.setstate),
        (np.random.get_state, np.random.set_state),
        (torch.get_rng_state, torch.set_rng_state),
    ]
    if torch.cuda.is_available():
        known.append((torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all))
    if getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        known.append((torch.mps.get_rng_state, torch.mps.set_rng_state))
    if getattr(torch, "xpu", None) is not None and torch.xpu.is_available():
        known.append((torch.xpu.get_rng_state_all, torch.xpu.set_rng_state_all))
    try:
        from modules import rng
    except ImportError:  # Before 1.6.
        return known
    # The host's own of the option "randn_source: NV"; made when it is first seeded.
    return [*known, (lambda: getattr(rng, "nv_rng", None), lambda state: setattr(rng, "nv_rng", state))]
