"""Peers that keep things from one step to the next: DeepCache, and diffusers' own hooks. All know diffusers' U-Nets only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from lib_accel.cli.errors import CommandError
from lib_accel.core.sites import find_unet

# Every how many steps DeepCache runs the whole U-Net, and attention is computed in diffusers' hooks.
DEEPCACHE_INTERVAL = 3
SKIP_RANGE = 2


class Timesteps:
    """The timesteps of a pass, as the U-Net is given them: these peers ask for them."""

    def __init__(self) -> None:
        self.timesteps: list[float] = []

    @property
    def last(self) -> float:
        return self.timesteps[-1]

    def see(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        timestep = args[1] if len(args) > 1 else kwargs.get("timestep")
        if not isinstance(timestep, torch.Tensor):
            raise CommandError("it keeps things from step to step; only whole generations (--whole) show it")
        if timestep.item() not in self.timesteps:
            self.timesteps.append(timestep.item())


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

    with _stepping(model) as (unet, steps):
        settings = PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=SKIP_RANGE, current_timestep_callback=lambda: steps.last
        )
        apply_pyramid_attention_broadcast(unet, settings)
        yield


@contextmanager
def faster_cache(model: Any) -> Iterator[None]:
    """diffusers' hook for FasterCache (Lv et al., arXiv 2410.19355). Written for video transformers; U-Nets show whether it takes them."""
    from diffusers import FasterCacheConfig
    from diffusers.hooks import apply_faster_cache

    with _stepping(model) as (unet, steps):
        settings = FasterCacheConfig(
            spatial_attention_block_skip_range=SKIP_RANGE,
            tensor_format="BCHW",
            attention_weight_callback=lambda _: 0.5,
            current_timestep_callback=lambda: steps.last,
        )
        apply_faster_cache(unet, settings)
        yield


@contextmanager
def _stepping(model: Any) -> Iterator[tuple[nn.Module, Timesteps]]:
    """The diffusers U-Net of ``model`` and the timesteps that it sees. Afterwards all modules are as they were."""
    unet = find_unet(model)
    if not hasattr(unet, "down_blocks"):
        raise CommandError("it knows diffusers' U-Nets only (--backend diffusers)")
    before = {module: dict(module.__dict__) for module in unet.modules()}
    steps = Timesteps()
    handle = unet.register_forward_pre_hook(steps.see, with_kwargs=True)
    try:
        yield unet, steps
    finally:
        handle.remove()
        for module, own in before.items():
            for name in ("forward", "_diffusers_hook"):
                module.__dict__.pop(name, None)
                if name in own:
                    module.__dict__[name] = own[name]
