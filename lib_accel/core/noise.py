"""How noisy the latents of a U-Net call are, and what the U-Net predicts of them; as far as the model around it tells.

Latents are x = signal * x0 + noise * eps with signal^2 + noise^2 = 1, which is what Stable Diffusion's U-Nets are given by every sampler.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import Any

import torch

KINDS = {"epsilon": "epsilon", "eps": "epsilon", "v_prediction": "v", "v": "v", "sample": "sample", "x0": "sample"}


@dataclass(frozen=True)
class Noise:
    """kind: what is predicted, ``epsilon`` | ``v`` | ``sample``. sigma: noise / signal of the latents, above 0; None when nobody tells."""

    kind: str = "epsilon"
    sigma: float | None = None

    def as_epsilon(self, prediction: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
        """The noise predicted for latents ``x``, in float32; None when it takes an unknown sigma to tell."""
        prediction = prediction.float()
        if self.kind == "epsilon":
            return prediction
        if self.sigma is None:
            return None
        signal = 1 / math.hypot(1, self.sigma)
        noise = self.sigma * signal
        if self.kind == "v":
            return signal * prediction + noise * x.float()
        return (x.float() - signal * prediction) / noise

    @property
    def per_epsilon(self) -> float | None:
        """By how much the prediction changes when its noise changes by one; None when it takes an unknown sigma to tell."""
        if self.kind == "epsilon":
            return 1.0
        if self.sigma is None:
            return None
        return math.hypot(1, self.sigma) if self.kind == "v" else -self.sigma


class NoiseView:
    """A diffusers pipeline or an LDM or SGM model, asked for its noise levels. Held weakly."""

    def __init__(self, model: Any) -> None:
        try:
            self._model = weakref.ref(model)
        except TypeError:  # What cannot be held weakly is not held at all.
            self._model = lambda: None
        self._source: torch.Tensor | None = None
        self._log_sigmas: list[float] = []

    def at(self, timestep: float | None, sigma: float | None = None) -> Noise:
        """The noise of a U-Net call at ``timestep``. sigma: what the host says, which is believed more than a table.

        A bare U-Net predicts epsilon, for all that is known, at an unknown sigma.
        """
        if sigma is None and timestep is not None:
            model = self._model()
            sigma = self._sigma(getattr(getattr(model, "scheduler", None) or model, "alphas_cumprod", None), timestep)
        return Noise(self.kind, sigma if sigma is not None and 0 < sigma < math.inf else None)

    @property
    def kind(self) -> str:
        """What the U-Net predicts (see `Noise`)."""
        model = self._model()
        config = getattr(getattr(model, "scheduler", None), "config", None)
        told = getattr(config, "prediction_type", None) or getattr(model, "parameterization", None)
        return KINDS.get(told, "epsilon") if isinstance(told, str) else "epsilon"

    def _sigma(self, table: Any, timestep: float) -> float | None:
        """Between whole timesteps the logarithm of sigma is interpolated."""
        if not isinstance(table, torch.Tensor) or table.ndim != 1 or table.numel() < 2:
            return None
        if table is not self._source:
            squares = table.detach().double().cpu().clamp(1e-12, 1 - 1e-12)
            self._source, self._log_sigmas = table, (0.5 * ((1 - squares) / squares).log()).tolist()
        place = min(max(timestep, 0.0), len(self._log_sigmas) - 1.0)
        low = min(int(place), len(self._log_sigmas) - 2)
        part = place - low
        return math.exp((1 - part) * self._log_sigmas[low] + part * self._log_sigmas[low + 1])
