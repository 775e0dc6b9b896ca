"""Presets: named sets of methods per model family, as data. What each costs is measured by `python -m lib_accel quality`."""

from __future__ import annotations

from typing import Any

from .families import FAMILIES
from .methods import AgentAttention, TokenDownsampling, TokenMerging
from .settings import SettingError

Methods = tuple[Any, ...]

# Queries stay whole: the mildest of the reductions. The first steps, which lay the picture out, are left alone.
_MILD: Methods = (TokenDownsampling(factor=2, window=(0.2, 1.0)),)
# The schedule AgentSD was published with: agents for 40 % of the steps, then merging alone.
_AGENT_SD: Methods = (AgentAttention(window=(0.0, 0.4)), TokenMerging(ratio=0.4, window=(0.4, 1.0)))

PRESETS: dict[str, dict[str, Methods]] = {
    "quality": {
        "sd1": _MILD,
        "sd2": _MILD,
        "sdxl": _MILD,
        "few-step": (TokenDownsampling(factor=2, window=(0.25, 1.0)),),
    },
    "balanced": {
        "sd1": _AGENT_SD,
        # SD2.1's scores overflow half precision.
        "sd2": (AgentAttention(window=(0.0, 0.4), attn_precision="fp32"), TokenMerging(ratio=0.4, window=(0.4, 1.0))),
        # No values were published; its finest level with attention is already coarser, so a little less goes.
        "sdxl": (AgentAttention(ratio=0.3, window=(0.0, 0.4)), TokenMerging(ratio=0.25, window=(0.4, 1.0))),
        # Few steps cannot mend what agents blur.
        "few-step": (TokenDownsampling(factor=2),),
    },
    "fast": {
        "sd1": (AgentAttention(ratio=0.5, window=(0.0, 0.7)), TokenMerging(ratio=0.5, window=(0.7, 1.0))),
        "sd2": (AgentAttention(ratio=0.5, window=(0.0, 0.7), attn_precision="fp32"), TokenMerging(ratio=0.5, window=(0.7, 1.0))),
        "sdxl": (AgentAttention(ratio=0.4, window=(0.0, 0.7)), TokenMerging(ratio=0.4, window=(0.7, 1.0))),
        "few-step": (TokenMerging(ratio=0.3), TokenDownsampling(factor=2)),
    },
}


def preset(name: str, family: str = "sd1") -> Methods:
    """The methods of preset ``name`` (any case) for a model ``family``. SettingError naming the presets or families there are."""
    families = PRESETS.get(str(name).lower())
    if families is None:
        raise SettingError(f"preset is {name!r}; it must be one of {', '.join(PRESETS)}.")
    if family not in families:
        raise SettingError(f"family is {family!r}; it must be one of {', '.join(FAMILIES)}.")
    return families[family]
