"""How noisy the latents of a U-Net call are, and what the U-Net predicts of them; as far as the model around it tells.

Latents are x = signal * x0 + noise * eps with signal^2 + noise^2 = 1, which is what Stable Diffusion's U-Nets are given by every sampler;
for flow matching x = (1 - s) * x0 + s * eps. Sigma is noise / signal everywhere, for flow matching s / (1 - s).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

# The sign of v in the kinds of prediction that are one.
_V = {"v": 1, "-v": -1}


@dataclass(frozen=True)
class Noise:
    """What a model predicts at one noise level, and how it is turned into something else. Everything returned is float32 or finer.

    kind: what is predicted, ``epsilon`` | ``v`` | ``-v`` (EDM's schedulers) | ``sample`` | ``flow`` (noise less picture, a velocity) |
    ``unknown`` (no prediction is turned into another then). sigma: noise / signal of the latents, above 0, in every parameterisation the
    same; infinite where the latents hold nothing of the picture, as flow matching begins. None when nobody tells. mixed: how latents hold
    picture and noise, ``vp`` (signal^2 + noise^2 = 1) or ``flow`` (signal + noise = 1); empty: as models of this kind are trained.
    """

    kind: str = "epsilon"
    sigma: float | None = None
    mixed: str = ""

    @property
    def is_flow(self) -> bool:
        """Whether signal and noise of the latents add up to 1."""
        return (self.mixed or self.kind) == "flow"

    @property
    def _untold(self) -> bool:
        return self.sigma is None or self.kind == "unknown"

    @property
    def signal(self) -> float | None:
        """How much of the picture is in the latents; None at an unknown sigma."""
        if self.sigma is None:
            return None
        return 1 / (1 + self.sigma) if self.is_flow else 1 / math.hypot(1, self.sigma)

    @property
    def noise(self) -> float | None:
        """How much noise is in the latents; None at an unknown sigma."""
        if self.sigma is None:
            return None
        if math.isinf(self.sigma):
            return 1.0
        return self.sigma / (1 + self.sigma) if self.is_flow else self.sigma / math.hypot(1, self.sigma)

    @property
    def level(self) -> float | None:
        """What derivatives are taken by: sigma, for flow matching the noise (its time); None at an unknown sigma.

        An error of the derivative is this many times as large in the picture.
        """
        return self.noise if self.is_flow else self.sigma

    @property
    def along(self) -> float | None:
        """What derivatives are continued along: sigma; for flow matching what makes its velocity a line where the predicted noise is one in
        sigma, v = (1 + sigma) eps - (x0 + sigma eps). None at an unknown sigma.

        So both kinds of models are forecast alike. Along its time the velocity is 2 to 6 dB further off (sample model, Euler, 25 steps).
        """
        return self.sigma * (1 + self.sigma / 2) if self.is_flow and self.sigma is not None else self.sigma

    @property
    def _sum(self) -> float:
        return 1.0 if self.is_flow else self.signal + self.noise

    @property
    def _squares(self) -> float:
        return self.signal**2 + self.noise**2 if self.is_flow else 1.0

    def as_epsilon(self, prediction: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
        """The noise predicted for latents ``x``; None when it takes an unknown sigma to tell."""
        prediction = _fine(prediction)
        if self.kind == "epsilon":
            return prediction
        if self._untold:
            return None
        if self.kind in _V:
            return (self.signal * _V[self.kind] * prediction + self.noise * _fine(x)) / self._squares
        if self.kind == "flow":
            return (_fine(x) + self.signal * prediction) / self._sum
        return (_fine(x) - self.signal * prediction) / self.noise

    @property
    def per_derivative(self) -> float | None:
        """By how much the prediction changes when its derivative changes by one; None when it takes an unknown sigma to tell."""
        if self.kind == ("flow" if self.is_flow else "epsilon"):
            return 1.0
        if self._untold:
            return None
        if self.kind == "sample":
            return -self.level
        if self.is_flow:
            return self.signal if self.kind == "epsilon" else _V[self.kind] * self._squares
        return (self._sum if self.kind == "flow" else _V[self.kind]) / self.signal

    def as_derivative(self, prediction: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
        """d = (latents - picture) / level, in latents in which the picture weighs 1 at sigma 0: the predicted noise, for flow matching the
        velocity. None as above, and where a predicted noise says nothing of the picture."""
        prediction = _fine(prediction)
        if not self.is_flow:
            return self.as_epsilon(prediction, x)
        if self.kind == "flow":
            return prediction
        if self._untold:
            return None
        if self.kind == "epsilon":
            return (prediction - _fine(x)) / self.signal if self.signal else None
        if self.kind in _V:
            return (_V[self.kind] * prediction + (self.noise - self.signal) * _fine(x)) / self._squares
        return (_fine(x) - prediction) / self.noise

    def from_derivative(self, derivative: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
        """The prediction for latents ``x`` that `as_derivative` turns into ``derivative``; None as above."""
        derivative = _fine(derivative)
        if self.kind == ("flow" if self.is_flow else "epsilon"):
            return derivative
        if self._untold:
            return None
        if self.is_flow:
            if self.kind == "epsilon":
                return _fine(x) + self.signal * derivative
            if self.kind in _V:
                return _V[self.kind] * (self._squares * derivative + (self.signal - self.noise) * _fine(x))
            return _fine(x) - self.noise * derivative
        if self.kind in _V:
            return _V[self.kind] * (derivative - self.noise * _fine(x)) / self.signal
        if self.kind == "flow":
            return (self._sum * derivative - _fine(x)) / self.signal
        return (_fine(x) - self.noise * derivative) / self.signal

    def as_picture(self, prediction: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
        """The picture (its latents) predicted for latents ``x``; None when it takes an unknown sigma to tell."""
        prediction = _fine(prediction)
        if self.kind == "sample":
            return prediction
        if self._untold:
            return None
        if self.kind in _V:
            return (self.signal * _fine(x) - self.noise * _V[self.kind] * prediction) / self._squares
        if self.kind == "flow":
            return (_fine(x) - self.noise * prediction) / self._sum
        return (_fine(x) - self.noise * prediction) / self.signal if self.signal else None

    def from_picture(self, picture: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
        """The prediction for latents ``x`` that `as_picture` turns into ``picture``; None as above."""
        picture = _fine(picture)
        if self.kind == "sample":
            return picture
        if self._untold:
            return None
        if self.kind == "flow":
            return (_fine(x) - self._sum * picture) / self.noise
        if self.kind in _V:
            return _V[self.kind] * (self.signal * _fine(x) - self._squares * picture) / self.noise
        return (_fine(x) - self.signal * picture) / self.noise


def sigma_of_flow(noise: float) -> float:
    """noise / signal of flow matching's latents that hold so much noise (0 to 1): s / (1 - s)."""
    return noise / (1 - noise) if noise < 1 else math.inf


def _fine(tensor: torch.Tensor) -> torch.Tensor:
    """In float32, unless it is finer."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
