"""Predictions in the units in which they are continued from step to step, by the sampler: as pictures or as derivatives."""

from __future__ import annotations

import torch

from ..core.noise import Noise
from ..engine.contract import Moment


def as_continued(moment: Moment, prediction: torch.Tensor, noise: Noise, x: torch.Tensor) -> torch.Tensor | None:
    """``prediction`` [rows, ...] for latents ``x`` as it is continued; None where the noise level is not known, or where not all that x
    holds is what the prediction is about.

    What a model predicts besides (PixArt's variance) is continued as it is.
    """
    if _is_continued(moment, noise):
        return prediction.to(torch.promote_types(prediction.dtype, torch.float32))
    common = _common(prediction, x)
    if common is None:
        return None
    dim, size = common
    turn = noise.as_picture if _of_picture(moment) else noise.as_derivative
    turned = turn(prediction.narrow(dim, 0, size), x.narrow(dim, 0, size))
    return None if turned is None else _with_rest(turned, prediction, dim, size)


def as_prediction(moment: Moment, kept: torch.Tensor, noise: Noise, x: torch.Tensor) -> torch.Tensor:
    """What was kept as the prediction for ``x``."""
    if _is_continued(moment, noise):
        return kept
    dim, size = _common(kept, x)
    turn = noise.from_picture if _of_picture(moment) else noise.from_derivative
    return _with_rest(turn(kept.narrow(dim, 0, size), x.narrow(dim, 0, size)), kept, dim, size)


def _of_picture(moment: Moment) -> bool:
    return moment.sampler.forecasting.of == "picture"


def _is_continued(moment: Moment, noise: Noise) -> bool:
    """Whether what is predicted is what is continued. It is told without x, so velocities may have either sign, tokens any order."""
    return noise.kind == ("sample" if _of_picture(moment) else "flow" if noise.is_flow else "epsilon")


def _common(prediction: torch.Tensor, x: torch.Tensor) -> tuple[int, int] | None:
    """(dimension, size) of what both have in common, the latents: either may hold more behind them. None: they differ otherwise."""
    if prediction.ndim != x.ndim:
        return None
    differing = [dim for dim in range(1, x.ndim) if prediction.shape[dim] != x.shape[dim]]
    dim = differing[0] if differing else 1
    return None if len(differing) > 1 else (dim, min(prediction.shape[dim], x.shape[dim]))


def _with_rest(turned: torch.Tensor, whole: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    rest = whole.narrow(dim, size, whole.shape[dim] - size)
    return torch.cat([turned, rest.to(turned)], dim) if rest.shape[dim] else turned
