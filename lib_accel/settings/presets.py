"""Presets: named sets of methods per model family, as data. What each costs is measured by `python -m lib_accel quality`."""

from __future__ import annotations

from typing import Any

from ..core.fields import SettingError
from ..methods import DeepCache, Forecast, GuidanceSkip, TokenDownsampling, TokenMerging
from .model_families import FAMILIES

Methods = tuple[Any, ...]

# Queries stay whole: the mildest of the reductions. The steps that lay the picture out are left alone.
_MILD: Methods = (TokenDownsampling(factor=2, window=(0.4, 1.0)),)
# Down-sampled keys and values and merging among neighbours together are faster than either at the same distance from the plain
# picture, and both nearer to it and faster than agents.
_FAST_TOKENS: Methods = (TokenDownsampling(factor=2), TokenMerging(ratio=0.25, matching="local"))
_FASTEST_TOKENS: Methods = (TokenDownsampling(factor=2, deeper_factor=2), TokenMerging(ratio=0.5, matching="local"))
# SDXL's finest level with attention is already coarser, so a little less goes, and nothing below it.
_FASTEST_TOKENS_XL: Methods = (TokenDownsampling(factor=2), TokenMerging(ratio=0.5, matching="local"))
# Up to about twice as fast, nothing else is as near to the full picture in the same time as forecasts, where the sampler allows them. Where
# it does not (UniPC in AUTOMATIC1111's WebUI, Heun, PLMS ...), serving the deep stages is. Further on, with some samplers, forecasts and a
# guidance direction that is kept and looked up anew now and then are together nearest.
_EVERY_SECOND = DeepCache(every=2, warm_up=0.2, only_where_better=True)
_EVERY_THIRD = DeepCache(every=3, warm_up=0.2, only_where_better=True)
_LITTLE_GUIDANCE = GuidanceSkip(when="after", after=0.3, reuse=True, every=7, only_where_better=True)
_LEAST_GUIDANCE = GuidanceSkip(when="after", after=0.2, reuse=True, every=12, only_where_better=True)

_QUALITY: Methods = (Forecast(level="middle"), _EVERY_SECOND)
_BALANCED: Methods = (*_MILD, Forecast(level="fast"), _EVERY_THIRD)
_FAST: Methods = (*_FAST_TOKENS, Forecast(level="fastest"), _EVERY_THIRD, _LITTLE_GUIDANCE)
# For finding seeds and prompts. At the same speed fewer steps show far less of what the prompt says.
_DRAFT_STEPS: Methods = (Forecast(level="draft"), _LEAST_GUIDANCE)
_DRAFT: Methods = (*_DRAFT_STEPS, _EVERY_THIRD)
# Of few steps each matters, and most run without guidance as they are: such passes get token methods alone. Of diffusion transformers only
# whole calls can be left out.
PRESETS: dict[str, dict[str, Methods]] = {
    "quality": {
        "sd1": _QUALITY,
        "sd2": _QUALITY,
        "sdxl": _QUALITY,
        "few-step": (TokenDownsampling(factor=2, window=(0.25, 1.0)),),
        "transformer": (Forecast(level="middle"),),
    },
    "balanced": {
        "sd1": _BALANCED,
        "sd2": _BALANCED,
        "sdxl": _BALANCED,
        "few-step": (TokenDownsampling(factor=2),),
        "transformer": (Forecast(level="fast"),),
    },
    "fast": {
        "sd1": _FAST,
        "sd2": _FAST,
        "sdxl": _FAST,
        "few-step": (TokenDownsampling(factor=2), TokenMerging(ratio=0.3, matching="local")),
        "transformer": (Forecast(level="fastest"), _LITTLE_GUIDANCE),
    },
    "draft": {
        "sd1": (*_FASTEST_TOKENS, *_DRAFT),
        "sd2": (*_FASTEST_TOKENS, *_DRAFT),
        "sdxl": (*_FASTEST_TOKENS_XL, *_DRAFT),
        "few-step": (TokenDownsampling(factor=2, deeper_factor=2), TokenMerging(ratio=0.5, matching="local")),
        "transformer": _DRAFT_STEPS,
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
