"""Errors of our own code: worked around and told, or raised while the project is tested."""

from __future__ import annotations

import os


def strict() -> bool:
    """Whether errors of our own code are raised (ACCEL_STRICT=1) instead of being reported and worked around."""
    return os.environ.get("ACCEL_STRICT", "") not in ("", "0")


def in_words(error: Exception) -> str:
    """An error as a clause of the report."""
    text = " ".join(str(error).split())
    return type(error).__name__ + (f": {text[:200]}" if text else "")
