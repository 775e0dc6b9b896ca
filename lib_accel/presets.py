"""Presets: named sets of methods, as data."""

from __future__ import annotations

from typing import Any

from .methods import AgentAttention, TokenMerging
from .settings import SettingError

PRESETS: dict[str, tuple[Any, ...]] = {
    # A quarter of the tokens, and none while the composition is laid out.
    "quality": (TokenMerging(ratio=0.25, window=(0.2, 1.0)),),
    # The schedule AgentSD was published with: agents for 40 % of the steps, then merging alone.
    "balanced": (AgentAttention(window=(0.0, 0.4)), TokenMerging(ratio=0.4, window=(0.4, 1.0))),
    # Agents to the end of the middle, half of the tokens after that.
    "fast": (AgentAttention(ratio=0.5, window=(0.0, 0.7)), TokenMerging(ratio=0.5, window=(0.7, 1.0))),
}


def preset(name: str) -> tuple[Any, ...]:
    """The methods of preset ``name`` (any case). SettingError naming the presets there are."""
    methods = PRESETS.get(str(name).lower())
    if methods is None:
        raise SettingError(f"preset is {name!r}; it must be one of {', '.join(PRESETS)}.")
    return methods
