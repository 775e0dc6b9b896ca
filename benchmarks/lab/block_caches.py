"""diffusers' own caches of a transformer's blocks as peers, with the settings and defaults that they have there.

FirstBlockCache, TaylorSeer and MagCache; each is put on for one run and taken off after it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from lib_accel.cli.errors import CommandError
from lib_accel.core.fields import check, setting
from lib_accel.core.sites import find_unet, is_transformer

from .leaving import left_as_it_was

# Magnitude ratios that runs gave: of a transformer, by (steps, height, width).
_RATIOS: WeakKeyDictionary[nn.Module, dict[tuple, list[float]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class FirstBlock:
    """FirstBlockCache: a call ends after its first block where that block's residual changed by less than ``threshold`` of itself."""

    threshold: float = setting(0.05, "number", "Threshold", "higher: more calls end after the first block", 0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class TaylorSeer:
    """TaylorSeer: after the first steps, outputs are continued by a Taylor series but in every ``cache_interval``-th call.

    Those of attention alone, or (``use_lite_mode``) that of the last layer, so that no block runs.
    """

    cache_interval: int = setting(5, "integer", "Interval", "every how many calls one runs", 1)
    disable_cache_before_step: int = setting(3, "integer", "Before", "calls that run at first", 1)
    max_order: int = setting(1, "integer", "Order", "of the series", 0, 4)
    use_lite_mode: bool = setting(False, "flag", "Lite", "on: the last layer is continued, blocks do not run")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Mag:
    """MagCache: all blocks' residual is kept for up to ``max_skip_steps`` calls while what it would change by stays below ``threshold``."""

    threshold: float = setting(0.06, "number", "Threshold", "higher: more calls are served", 0)
    max_skip_steps: int = setting(3, "integer", "Skipped", "calls in a row", 1)
    retention_ratio: float = setting(0.2, "number", "Retention", "the part of the steps that runs at first", 0, 1)

    def __post_init__(self) -> None:
        check(self)


@contextmanager
def first_block_cache(model: Any, settings: FirstBlock | None = None) -> Iterator[None]:
    """diffusers' FirstBlockCache."""
    from diffusers.hooks import FirstBlockCacheConfig

    with cached(model, FirstBlockCacheConfig(threshold=(settings or FirstBlock()).threshold)):
        yield


@contextmanager
def taylorseer(model: Any, settings: TaylorSeer | None = None) -> Iterator[None]:
    """diffusers' TaylorSeer (Liu et al., arXiv 2503.06923), with its series in the model's own precision."""
    from diffusers.hooks import TaylorSeerCacheConfig

    dtype = next(find_unet(model).parameters()).dtype
    with cached(model, TaylorSeerCacheConfig(taylor_factors_dtype=dtype, **vars(settings or TaylorSeer()))):
        yield


@contextmanager
def mag_cache(model: Any, settings: Mag | None = None) -> Iterator[None]:
    """diffusers' MagCache (Ma et al., arXiv 2506.09045). The ratios that it needs of a model are taken in a run of their own, with what the
    first run of so many steps at this size is asked. CommandError for what is no pipeline of a transformer."""
    from diffusers.hooks import MagCacheConfig

    transformer, chosen = _transformer(model), settings or Mag()
    if transformer is model:
        raise CommandError("it takes a model's ratios in a run of its pipeline")

    def run(**given: Any) -> Any:
        steps = given["num_inference_steps"]
        known = _RATIOS.setdefault(transformer, {})
        key = (steps, given.get("height"), given.get("width"))
        if key not in known:
            # One step more than there are: at its last one it would print what it found.
            with cached(model, MagCacheConfig(calibrate=True, num_inference_steps=steps + 1)), _noting_ratios(transformer) as ratios:
                model(**given)
            known[key] = ratios()
        with cached(model, MagCacheConfig(num_inference_steps=steps, mag_ratios=known[key], **vars(chosen))):
            return model(**given)

    model.stands_in = run
    guard = transformer.register_forward_pre_hook(_only_under_hooks)
    try:
        yield
    finally:
        guard.remove()
        del model.stands_in


def _only_under_hooks(module: nn.Module, _: Any) -> None:
    if getattr(module, "_cache_config", None) is None:
        raise CommandError("it keeps things from step to step; only whole generations (--whole) show it")


@contextmanager
def _noting_ratios(transformer: nn.Module) -> Iterator[Callable[[], list[float]]]:
    """A function that returns the ratio of every step, the mean over texts where each has a call of its own."""
    of_texts: dict[int, list[float]] = {}
    tail = next(hook for hook in _hooks(transformer) if getattr(hook, "is_tail", False))
    calibrate = tail._perform_calibration_step

    def note(state: Any, residual: Any) -> None:
        calibrate(state, residual)
        of_texts[id(state)] = list(state.calibration_ratios)

    tail._perform_calibration_step = note
    yield lambda: [statistics.fmean(of_step) for of_step in zip(*of_texts.values())]


@contextmanager
def cached(model: Any, config: Any) -> Iterator[nn.Module]:
    """The transformer of ``model`` with the cache that ``config`` describes. CommandError for a model that it cannot act on."""
    transformer = _transformer(model)
    if not hasattr(transformer, "enable_cache"):
        raise CommandError(f"diffusers has no caches for {type(transformer).__name__}")
    with left_as_it_was(transformer, ("forward", "_diffusers_hook", "_cache_config")):
        try:
            transformer.enable_cache(config)
        except (ValueError, IndexError) as error:
            raise CommandError(f"it does not know the blocks of {type(transformer).__name__}: {error}") from error
        if not any(_hooks(transformer)):
            raise CommandError(f"it finds nothing to act on in {type(transformer).__name__}")
        try:
            yield transformer
        finally:
            transformer.disable_cache()


def _transformer(model: Any) -> nn.Module:
    transformer = find_unet(model)
    if not is_transformer(transformer):
        raise CommandError(f"it acts on diffusion transformers, and {type(transformer).__name__} is a U-Net")
    return transformer


def _hooks(transformer: nn.Module) -> Iterator[Any]:
    """diffusers' hooks on the parts of ``transformer``."""
    for module in transformer.modules():
        yield from getattr(vars(module).get("_diffusers_hook"), "hooks", {}).values()
