"""Two samplers that only the Forge family has, as schedulers of diffusers for models that predict the noise.

Res Multistep: the second-order exponential multistep formula (Zhang and Chen, arXiv 2308.02157) without noise. ER SDE: the extended
reverse-time SDE of order 3 (Cui et al., arXiv 2309.06169) with the noise scale x (exp(x^0.3) + 10). Both go through Euler's noise levels.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler

from lib_accel.core.sampler_gains import er_scale, er_sde_weights, res_weights


class _Multistep(EulerDiscreteScheduler):
    """Keeps the last three pictures that were predicted, the newest first."""

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        self._pictures: deque[torch.Tensor] = deque(maxlen=3)
        self._levels = [float(sigma) for sigma in self.sigmas]

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, generator: Any = None, **_: Any) -> tuple[torch.Tensor]:
        if self.step_index is None:
            self._init_step_index(timestep)
        j = self.step_index
        x = sample.double()
        self._pictures.appendleft(x - self._levels[j] * model_output.double())
        self._step_index += 1
        if self._levels[j + 1] == 0:
            return (self._pictures[0].to(sample.dtype),)
        kept, weights, noise = self._formula(j)
        after = kept * x + sum(weight * picture for weight, picture in zip(weights, self._pictures))
        if noise:
            after = after + noise * torch.randn(sample.shape, generator=generator, dtype=sample.dtype)
        return (after.to(sample.dtype),)

    def _formula(self, j: int) -> tuple[float, tuple[float, ...], float]:
        """What the latents, the last pictures and new noise weigh in step ``j``."""
        raise NotImplementedError


class ResMultistepScheduler(_Multistep):
    def _formula(self, j: int) -> tuple[float, tuple[float, ...], float]:
        return self._levels[j + 1] / self._levels[j], res_weights(self._levels, j), 0.0


class ERSDEScheduler(_Multistep):
    def _formula(self, j: int) -> tuple[float, tuple[float, ...], float]:
        sigma, after = self._levels[j], self._levels[j + 1]
        kept = er_scale(after) / er_scale(sigma)
        return kept, er_sde_weights(self._levels, j), max(after**2 - (sigma * kept) ** 2, 0.0) ** 0.5
