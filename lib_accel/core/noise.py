"""How noisy the latents of a U-Net call are, and what the U-Net predicts of them; as far as the model around it tells.

Latents are x = signal * x0 + noise * eps with signal^2 + noise^2 = 1, which is what Stable Diffusion's U-Nets are given by every sampler;
for flow matching signal + noise = 1.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import Any

import torch

from .forge_models import prediction_type
from .scheduler_classes import is_flow

KINDS = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v_prediction": "v",
    "v": "v",
    "sample": "sample",
    "x0": "sample",
    "flow_prediction": "flow",
    "flow": "flow",
    "const": "flow",
    # Noise levels relative to the data's own spread, which nobody tells.
    "edm": "unknown",
}

# The sign of v in the kinds of prediction that are one.
_V = {"v": 1, "-v": -1}


@dataclass(frozen=True)
class Noise:
    """What a U-Net predicts at one noise level, and how it is turned into something else. Everything returned is float32 or finer.

    kind: what is predicted, ``epsilon`` | ``v`` | ``-v`` (EDM's schedulers) | ``sample`` | ``flow`` | ``unknown`` (no prediction is
    turned into another then). sigma: noise / signal of the latents, above 0; for flow matching the noise itself, its time. None when nobody
    tells.
    """

    kind: str = "epsilon"
    sigma: float | None = None

    @property
    def _untold(self) -> bool:
        return self.sigma is None or self.kind == "unknown"

    @property
    def signal(self) -> float | None:
        """How much of the picture is in the latents; None at an unknown sigma."""
        if self.sigma is None:
            return None
        return 1 - self.sigma if self.kind == "flow" else 1 / math.hypot(1, self.sigma)

    @property
    def noise(self) -> float | None:
        """How much noise is in the latents; None at an unknown sigma."""
        if self.sigma is None:
            return None
        return self.sigma if self.kind == "flow" else self.sigma / math.hypot(1, self.sigma)

    def as_epsilon(self, prediction: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
        """The noise predicted for latents ``x``; None when it takes an unknown sigma to tell."""
        prediction = _fine(prediction)
        if self.kind == "epsilon":
            return prediction
        if self._untold:
            return None
        if self.kind in _V:
            return self.signal * _V[self.kind] * prediction + self.noise * _fine(x)
        if self.kind == "flow":
            return _fine(x) + self.signal * prediction
        return (_fine(x) - self.signal * prediction) / self.noise

    @property
    def per_epsilon(self) -> float | None:
        """By how much the prediction changes when its noise changes by one; None when it takes an unknown sigma to tell."""
        if self.kind == "epsilon":
            return 1.0
        if self._untold:
            return None
        return -self.sigma if self.kind == "sample" else _V.get(self.kind, 1) / self.signal

    def as_derivative(self, prediction: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
        """What the latents change by per sigma: the noise predicted for latents ``x``, for flow matching the velocity. None as above."""
        return _fine(prediction) if self.kind == "flow" else self.as_epsilon(prediction, x)

    def from_derivative(self, derivative: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
        """The prediction for latents ``x`` that `as_derivative` turns into ``derivative``; None as above."""
        derivative = _fine(derivative)
        if self.kind in ("epsilon", "flow"):
            return derivative
        if self._untold:
            return None
        if self.kind in _V:
            return _V[self.kind] * (derivative - self.noise * _fine(x)) / self.signal
        return (_fine(x) - self.noise * derivative) / self.signal

    def as_picture(self, prediction: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
        """The picture (its latents) predicted for latents ``x``; None when it takes an unknown sigma to tell."""
        prediction = _fine(prediction)
        if self.kind == "sample":
            return prediction
        if self._untold:
            return None
        if self.kind in _V:
            return self.signal * _fine(x) - self.noise * _V[self.kind] * prediction
        if self.kind == "flow":
            return _fine(x) - self.noise * prediction
        return (_fine(x) - self.noise * prediction) / self.signal

    def from_picture(self, picture: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
        """The prediction for latents ``x`` that `as_picture` turns into ``picture``; None as above."""
        picture = _fine(picture)
        if self.kind == "sample":
            return picture
        if self._untold:
            return None
        if self.kind == "flow":
            return (_fine(x) - picture) / self.noise
        if self.kind in _V:
            return _V[self.kind] * (self.signal * _fine(x) - picture) / self.noise
        return (_fine(x) - self.signal * picture) / self.noise


def _is_edm(scheduler: Any) -> bool:
    """Whether a scheduler of diffusers scales latents and predictions as EDM does: its timesteps are ln(sigma) / 4."""
    config = getattr(scheduler, "config", None)
    return isinstance(getattr(config, "sigma_data", None), (int, float)) and hasattr(scheduler, "precondition_noise")


def _fine(tensor: torch.Tensor) -> torch.Tensor:
    """In float32, unless it is finer."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


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
        kind = self.kind
        if sigma is None and timestep is not None:
            model = self._model()
            scheduler = getattr(model, "scheduler", None)
            if _is_edm(scheduler):
                sigma = math.exp(4 * timestep) / scheduler.config.sigma_data
            elif kind == "flow":
                sigma = timestep / getattr(getattr(scheduler, "config", None), "num_train_timesteps", 1000)
            else:
                sigma = self._sigma(getattr(scheduler or model, "alphas_cumprod", None), timestep)
        return Noise(kind, sigma if sigma is not None and 0 < sigma < math.inf else None)

    @property
    def kind(self) -> str:
        """What the U-Net predicts (see `Noise`)."""
        model = self._model()
        scheduler = getattr(model, "scheduler", None)
        config = getattr(scheduler, "config", None)
        if is_flow(type(scheduler).__name__, config):
            return "flow"
        if _is_edm(scheduler):
            # What they call epsilon is v with another sign, at noise levels relative to the data's own spread.
            return "-v" if config.prediction_type == "epsilon" else "v"
        told = getattr(config, "prediction_type", None) or prediction_type(model) or getattr(model, "parameterization", None)
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
