"""Predictions in the units in which they are continued from step to step, by the sampler: as pictures or as derivatives."""

from __future__ import annotations

import torch

from ..core.noise import Noise
from ..engine.contract import Moment


def as_continued(moment: Moment, prediction: torch.Tensor, noise: Noise, x: torch.Tensor) -> torch.Tensor | None:
    """``prediction`` [rows, ...] for latents ``x`` as it is continued; None where the noise level is not known.

    Latents may have more channels (inpainting), and so may predictions (PixArt's variance).
    """
    channels = min(prediction.shape[1], x.shape[1])
    turn = noise.as_picture if moment.sampler.forecasting.of == "picture" else noise.as_derivative
    turned = turn(prediction[:, :channels], x[:, :channels])
    return None if turned is None else torch.cat([turned, prediction[:, channels:].to(turned)], 1)


def as_prediction(moment: Moment, kept: torch.Tensor, noise: Noise, x: torch.Tensor) -> torch.Tensor:
    """What was kept as the prediction for ``x``."""
    channels = min(kept.shape[1], x.shape[1])
    turn = noise.from_picture if moment.sampler.forecasting.of == "picture" else noise.from_derivative
    turned = turn(kept[:, :channels], x[:, :channels])
    return torch.cat([turned, kept[:, channels:].to(turned)], 1)
