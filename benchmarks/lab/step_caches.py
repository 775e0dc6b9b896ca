"""Peers that keep layers' outputs from one step to the next: DeepCache on diffusers' U-Nets, diffusers' own hooks on attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from lib_accel.cli.errors import CommandError
from lib_accel.core.sites import find_unet, is_transformer

from .block_caches import cached
from .leaving import left_as_it_was

# Every how many steps DeepCache runs the whole U-Net, and attention is computed in diffusers' hooks.
DEEPCACHE_INTERVAL = 3
SKIP_RANGE = 2
TRAINED = 1000


class Timesteps:
    """The timesteps of a pass, as the U-Net is given them: these peers ask for them."""

    def __init__(self) -> None:
        self.timesteps: list[float] = []

    @property
    def last(self) -> float:
        return self.timesteps[-1]

    @contextmanager
    def seen_by(self, model: nn.Module) -> Iterator[None]:
        """Those that ``model`` is given within."""
        handle = model.register_forward_pre_hook(self._see, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _see(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        timestep = args[1] if len(args) > 1 else kwargs.get("timestep")
        if not isinstance(timestep, torch.Tensor):
            raise CommandError("it keeps things from step to step; only whole generations (--whole) show it")
        value = timestep.flatten()[0].item()
        # Some transformers are told a part of 1 in place of a timestep of 1000.
        value *= TRAINED if is_transformer(module) and value <= 1 else 1
        if value not in self.timesteps:
            self.timesteps.append(value)


@contextmanager
def deepcache(model: Any) -> Iterator[None]:
    """DeepCache (Ma et al., arXiv 2312.00858) with the interval and branch that its authors' example has: 3, 0."""
    from DeepCache import DeepCacheSDHelper

    with _stepping(model) as (unet, steps):
        helper = DeepCacheSDHelper(pipe=SimpleNamespace(unet=unet, scheduler=steps))
        helper.set_params(cache_interval=DEEPCACHE_INTERVAL, cache_branch_id=0)
        helper.enable()
        yield


def deepcache_kinds(steps: int) -> list[tuple[int, int]]:
    """(step, count) of the steps that run whole, and of the others."""
    whole = -(-steps // DEEPCACHE_INTERVAL)
    return [(0, whole)] + ([(1, steps - whole)] if steps > whole else [])


@contextmanager
def pyramid_attention_broadcast(model: Any) -> Iterator[None]:
    """diffusers' hook for Pyramid Attention Broadcast (Zhao et al., arXiv 2408.12588) on self-attention, every second step."""
    from diffusers import PyramidAttentionBroadcastConfig
    from diffusers.hooks import apply_pyramid_attention_broadcast

    steps = Timesteps()
    settings = PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=SKIP_RANGE, current_timestep_callback=lambda: steps.last)
    with _on_either(model, steps, settings, apply_pyramid_attention_broadcast):
        yield


@contextmanager
def faster_cache(model: Any) -> Iterator[None]:
    """diffusers' hook for FasterCache (Lv et al., arXiv 2410.19355), on attention; whole rows are served where both texts come in one call.
    Written for video transformers; U-Nets show whether it takes them."""
    from diffusers import FasterCacheConfig
    from diffusers.hooks import apply_faster_cache

    steps = Timesteps()
    settings = FasterCacheConfig(
        spatial_attention_block_skip_range=SKIP_RANGE,
        tensor_format="BCHW",
        attention_weight_callback=lambda _: 0.5,
        current_timestep_callback=lambda: steps.last,
        is_guidance_distilled=is_transformer(find_unet(model)),
    )
    with _on_either(model, steps, settings, apply_faster_cache):
        yield


@contextmanager
def _on_either(model: Any, steps: Timesteps, settings: Any, apply: Callable[[nn.Module, Any], None]) -> Iterator[None]:
    """A hook of diffusers on a U-Net, or on a transformer for which it is meant."""
    if is_transformer(find_unet(model)):
        with cached(model, settings) as transformer, steps.seen_by(transformer):
            yield
    else:
        with _stepping(model, steps) as (unet, _):
            apply(unet, settings)
            yield


@contextmanager
def _stepping(model: Any, steps: Timesteps | None = None) -> Iterator[tuple[nn.Module, Timesteps]]:
    """The diffusers U-Net of ``model`` and the timesteps that it sees. Afterwards all modules are as they were."""
    unet, steps = find_unet(model), steps or Timesteps()
    if not hasattr(unet, "down_blocks"):
        raise CommandError("it knows diffusers' U-Nets only (--backend diffusers)")
    with left_as_it_was(unet, ("forward", "_diffusers_hook")), steps.seen_by(unet):
        yield unet, steps
