"""Settings that mean the same in several methods, described once."""

from __future__ import annotations

from typing import Any

from ..core.fields import setting

BY_SAMPLER = "by sampler"


def run_every(default: int, least: int, of_what: str, more: str) -> Any:
    """``every``. of_what: runs in such a step. more: what the lowest value means."""
    return setting(default, "integer", "Run every", f"3: every third step runs{of_what}; higher: faster; {more}", least, 10)


def tolerance(more: str, step: float = 0.01) -> Any:
    """``tolerance``. more: what 0 means."""
    return setting(0.0, "number", "Tolerance", f"higher: faster, further from the full picture; 0: {more}", 0, 1000, step=step)


def warm_up(default: float, more: str = "") -> Any:
    """``warm_up``. more: what 0 means, where that is more than none."""
    return setting(default, "number", "Warm-up", "part of the steps that always run first; lower: faster" + more, 0, 1)


def warm_sigma() -> Any:
    """``warm_sigma``."""
    return setting(0.0, "number", "Warm-up sigma", "every step runs until sigma is down to this; 0: no limit", 0)


def last(default: int, least: int = 0, more: str = "") -> Any:
    """``last``. more: what the lowest value means, where that is more than none."""
    return setting(default, "integer", "Last steps", "steps at the end that always run; higher: slower" + more, least, 1000)


def order() -> Any:
    """``order``."""
    hint = "1: continues along a line; 0: repeats the last; by sampler is best"
    return setting(BY_SAMPLER, "choice", "Order", hint, choices=(BY_SAMPLER, 0, 0.5, 1))
