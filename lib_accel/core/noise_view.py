"""How noisy the latents of a U-Net call are, as far as the pipeline or the model around it tells."""

from __future__ import annotations

import math
import weakref
from typing import Any

import torch

from .forge_models import prediction_type
from .noise import Noise, sigma_of_flow
from .scheduler_classes import is_flow, mixes_as_flow

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


def _is_edm(scheduler: Any) -> bool:
    """Whether a scheduler of diffusers scales latents and predictions as EDM does: its timesteps are ln(sigma) / 4."""
    config = getattr(scheduler, "config", None)
    return isinstance(getattr(config, "sigma_data", None), (int, float)) and hasattr(scheduler, "precondition_noise")


def _is_continuous(scheduler: Any) -> bool:
    """Whether the timesteps of a scheduler of diffusers are ln(sigma) / 4, and no places in a table."""
    config = getattr(scheduler, "config", None)
    kinds = getattr(config, "timestep_type", None), getattr(config, "prediction_type", None)
    return kinds == ("continuous", "v_prediction")


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
            scheduler = getattr(model, "scheduler", None)
            if _is_edm(scheduler) or _is_continuous(scheduler):
                sigma = math.exp(4 * timestep) / (scheduler.config.sigma_data if _is_edm(scheduler) else 1.0)
            elif self.mixed == "flow":
                noise = timestep / getattr(getattr(scheduler, "config", None), "num_train_timesteps", 1000)
                sigma = sigma_of_flow(noise) if 0 < noise <= 1 else None
            else:
                sigma = self._sigma(getattr(scheduler or model, "alphas_cumprod", None), timestep)
        return Noise(self.kind, sigma if sigma is not None and sigma > 0 else None, self.mixed)

    @property
    def mixed(self) -> str:
        """``flow`` where latents are mixed as in flow matching, else empty (see `Noise`)."""
        model = self._model()
        scheduler = getattr(model, "scheduler", None)
        if scheduler is None:
            return "flow" if self.kind == "flow" else ""
        return "flow" if mixes_as_flow(type(scheduler).__name__, getattr(scheduler, "config", None)) else ""

    @property
    def kind(self) -> str:
        """What the U-Net predicts (see `Noise`)."""
        model = self._model()
        scheduler = getattr(model, "scheduler", None)
        config = getattr(scheduler, "config", None)
        if is_flow(type(scheduler).__name__, config):
            return "flow"
        if mixes_as_flow(type(scheduler).__name__, config) and config.prediction_type == "v_prediction":
            # Schedulers reckon with latents of another kind then.
            return "unknown"
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
            squares = table.detach().cpu().double().clamp(1e-12, 1 - 1e-12)
            self._source, self._log_sigmas = table, (0.5 * ((1 - squares) / squares).log()).tolist()
        place = min(max(timestep, 0.0), len(self._log_sigmas) - 1.0)
        low = min(int(place), len(self._log_sigmas) - 2)
        part = place - low
        return math.exp((1 - part) * self._log_sigmas[low] + part * self._log_sigmas[low + 1])
