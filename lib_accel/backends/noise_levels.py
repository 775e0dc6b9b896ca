"""The sampler of a diffusers pipeline and the noise levels that its scheduler goes through."""

from __future__ import annotations

from typing import Any

import torch

from ..core.noise import sigma_of_flow
from ..core.samplers import Sampler
from ..core.scheduler_classes import mixes_as_flow, sampler_of_class


class SchedulerLevels:
    """Reads a scheduler once for every list of timesteps that it makes."""

    def __init__(self) -> None:
        self._of: tuple[Any, torch.Tensor | None] = (None, None)
        self._read: tuple[Sampler | None, tuple[float, ...] | None] = (None, None)

    def at(self, scheduler: Any) -> tuple[Sampler | None, tuple[float, ...] | None]:
        """(the sampler, the noise level of each of its timesteps and where the last step ends); None for what cannot be known."""
        timesteps = getattr(scheduler, "timesteps", None)
        if scheduler is None or not isinstance(timesteps, torch.Tensor):
            return None, None
        if self._of[0] is not scheduler or self._of[1] is not timesteps:
            self._of, self._read = (scheduler, timesteps), (sampler_of(scheduler), levels_of(scheduler))
        return self._read


def sampler_of(scheduler: Any) -> Sampler:
    """What sampler a scheduler is. Classes that are not diffusers' own are not known, whatever their names are."""
    made = type(scheduler)
    config = getattr(scheduler, "config", None)
    known = sampler_of_class(made.__name__, config) if made.__module__.startswith("diffusers.") else None
    return known or Sampler(made.__name__, known=False)


def levels_of(scheduler: Any) -> tuple[float, ...] | None:
    """The noise level of each timestep, and where the last step ends: noise / signal. None: not known."""
    timesteps = scheduler.timesteps
    sigmas = getattr(scheduler, "sigmas", None)
    if isinstance(sigmas, torch.Tensor):
        if sigmas.ndim != 1 or len(sigmas) != len(timesteps) + 1:
            return None
        # On the processor: they may be on a GPU, which may have no float64.
        levels, config = sigmas.cpu().double().tolist(), getattr(scheduler, "config", None)
        return _of_flow(levels, config) if mixes_as_flow(type(scheduler).__name__, config) else tuple(levels)
    table, steps = getattr(scheduler, "alphas_cumprod", None), getattr(scheduler, "num_inference_steps", None)
    if not isinstance(table, torch.Tensor) or not steps or timesteps.is_floating_point() or not len(timesteps):
        return None
    # Adding noise, as image-to-image does, leaves the table on the latents' device.
    table = table.cpu()
    # DDIM: the last step goes one stride further down, or to where the scheduler says that it ends.
    before = int(timesteps[-1]) - len(table) // int(steps)
    end = table[before] if before >= 0 else getattr(scheduler, "final_alpha_cumprod", None)
    if end is None:
        return None
    squares = torch.cat([table[timesteps.cpu()].double(), torch.as_tensor(end).double().cpu().reshape(1)])
    return tuple(((1 - squares) / squares).sqrt().tolist())


def _of_flow(noises: list[float], config: Any) -> tuple[float, ...] | None:
    """Sigma where so much of the latents is noise."""
    if getattr(config, "invert_sigmas", False):
        noises = [1 - picture for picture in noises]
    return tuple(sigma_of_flow(noise) for noise in noises) if all(0 <= noise <= 1 for noise in noises) else None
