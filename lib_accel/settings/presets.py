"""Presets: named sets of methods per model family, as data. What each costs is measured by `python -m lib_accel quality`."""

from __future__ import annotations

from typing import Any

from ..core.fields import SettingError
from ..methods import Forecast, GuidanceSkip, TokenDownsampling, TokenMerging
from .model_families import FAMILIES

Methods = tuple[Any, ...]

# Queries stay whole: the mildest of the reductions. The first steps, which lay the picture out, are left alone.
_MILD: Methods = (TokenDownsampling(factor=2, window=(0.2, 1.0)),)
# Down-sampled keys and values and merging among neighbours together are faster than either at the same distance from the plain
# picture, and both nearer to it and faster than agents.
_BALANCED_TOKENS: Methods = (TokenDownsampling(factor=2), TokenMerging(ratio=0.25, matching="local"))
_FAST_TOKENS: Methods = (TokenDownsampling(factor=2, deeper_factor=2), TokenMerging(ratio=0.5, matching="local"))
# A direction that is kept and looked up anew now and then saves nearly as much as dropping guidance for good, or T-GATE, and
# changes a fraction as much.
_SOME_GUIDANCE = GuidanceSkip(when="after", after=0.4, reuse=True, every=3)
_LITTLE_GUIDANCE = GuidanceSkip(when="after", after=0.2, reuse=True, every=7)
# For finding seeds and prompts: whatever still shows the same scene. Few of the sampler's steps run, and those on few tokens.
_FEWEST_STEPS = Forecast(level="fast")

PRESETS: dict[str, dict[str, Methods]] = {
    "quality": {
        "sd1": _MILD,
        "sd2": _MILD,
        "sdxl": _MILD,
        "few-step": (TokenDownsampling(factor=2, window=(0.25, 1.0)),),
    },
    "balanced": {
        "sd1": (*_BALANCED_TOKENS, _SOME_GUIDANCE),
        "sd2": (*_BALANCED_TOKENS, _SOME_GUIDANCE),
        "sdxl": (*_BALANCED_TOKENS, _SOME_GUIDANCE),
        # Of few steps each matters, and most run without guidance as they are.
        "few-step": (TokenDownsampling(factor=2),),
    },
    "fast": {
        "sd1": (*_FAST_TOKENS, _LITTLE_GUIDANCE),
        "sd2": (*_FAST_TOKENS, _LITTLE_GUIDANCE),
        # Its finest level with attention is already coarser, so a little less goes, and nothing below it.
        "sdxl": (TokenDownsampling(factor=2), TokenMerging(ratio=0.4, matching="local"), _LITTLE_GUIDANCE),
        "few-step": (TokenDownsampling(factor=2), TokenMerging(ratio=0.3, matching="local")),
    },
    "draft": {
        "sd1": (*_FAST_TOKENS, _LITTLE_GUIDANCE, _FEWEST_STEPS),
        "sd2": (*_FAST_TOKENS, _LITTLE_GUIDANCE, _FEWEST_STEPS),
        "sdxl": (TokenDownsampling(factor=2), TokenMerging(ratio=0.5, matching="local"), _LITTLE_GUIDANCE, _FEWEST_STEPS),
        "few-step": (TokenDownsampling(factor=2, deeper_factor=2), TokenMerging(ratio=0.5, matching="local")),
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
