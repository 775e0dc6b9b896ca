"""Spectrum as a peer (arXiv 2603.01623): whole U-Net calls are forecast on a fixed plan, by a fit of Chebyshev polynomials over time.

Written anew from its formulas, with the defaults that its users have. For diffusers pipelines.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from lib_accel.backends.noise_levels import levels_of
from lib_accel.cli.errors import CommandError
from lib_accel.core.noise import Noise, NoiseView
from lib_accel.core.sites import find_unet

WARM_UP = 6
# Every second step behind the warm-up runs, and every step behind this part of them.
WINDOW = 2
STOP = 0.9
DEGREE = 6
RIDGE = 0.5
# How much of the fit there is in a forecast; the rest is the line through the last two calls.
PART = 0.25
KEPT = max(DEGREE + 2, 8)


@dataclass
class _Run:
    """One run of the pipeline: what was predicted of the picture, and when."""

    timesteps: torch.Tensor
    levels: tuple[float, ...]
    times: list[float] = field(default_factory=list)
    pictures: list[torch.Tensor] = field(default_factory=list)
    skipped: int = 0

    def time(self, step: int) -> float:
        return 2 * step / len(self.timesteps) - 1

    def runs(self, step: int) -> bool:
        """Whether the U-Net runs in ``step``."""
        steps = len(self.timesteps)
        full = step < WARM_UP or step >= int(steps * STOP) or (self.skipped + 1) % WINDOW == 0
        self.skipped = 0 if full else self.skipped + 1
        return full

    def forecast(self, step: int) -> torch.Tensor:
        now, times = self.time(step), torch.tensor(self.times)
        values = torch.stack([picture.flatten() for picture in self.pictures])
        basis, wanted = _chebyshev(times), _chebyshev(torch.tensor([now]))
        normal = basis.T @ basis + RIDGE * torch.eye(basis.shape[1])
        fit = torch.cholesky_solve(basis.T @ values.cpu().float(), torch.linalg.cholesky(normal))
        curve = (wanted @ fit).to(values)[0]
        line = values[-1] + (now - self.times[-1]) / (self.times[-1] - self.times[-2]) * (values[-1] - values[-2])
        return ((1 - PART) * line + PART * curve).view_as(self.pictures[-1])


@contextmanager
def spectrum(model: Any) -> Iterator[None]:
    """The U-Net of the pipeline ``model`` under Spectrum. CommandError for what is no pipeline."""
    if not hasattr(model, "scheduler"):
        raise CommandError("it follows a pipeline's schedule (--pipeline, or --model)")
    unet, noises = find_unet(model), NoiseView(model)
    had, own = vars(unet).get("forward"), unet.forward
    state: dict[str, _Run] = {}

    def forward(sample: torch.Tensor, timestep: Any, *args: Any, **given: Any) -> Any:
        timesteps = model.scheduler.timesteps
        if "run" not in state or state["run"].timesteps is not timesteps:
            levels = levels_of(model.scheduler)
            if levels is None:
                raise CommandError("the scheduler's noise levels are not known")
            state["run"] = _Run(timesteps, levels)
        run = state["run"]
        step = int((timesteps == timestep).nonzero()[0])
        noise = Noise(noises.kind, run.levels[step])
        if not run.runs(step):
            prediction = noise.from_picture(run.forecast(step), sample).to(sample.dtype)
            return (prediction,) if given.get("return_dict") is False else _Output(prediction)
        out = own(sample, timestep, *args, **given)
        prediction = out[0] if isinstance(out, tuple) else out.sample
        run.times = [*run.times, run.time(step)][-KEPT:]
        run.pictures = [*run.pictures, noise.as_picture(prediction, sample)][-KEPT:]
        return out

    vars(unet)["forward"] = forward
    try:
        yield
    finally:
        del vars(unet)["forward"]
        if had is not None:
            vars(unet)["forward"] = had


@dataclass
class _Output:
    sample: torch.Tensor


def _chebyshev(times: torch.Tensor) -> torch.Tensor:
    """[times, DEGREE + 1] the polynomials T_0 to T_DEGREE."""
    columns = [torch.ones_like(times), times]
    for _ in range(DEGREE - 1):
        columns.append(2 * times * columns[-1] - columns[-2])
    return torch.stack(columns, 1)


def spectrum_kinds(steps: int) -> list[tuple[int, int]]:
    """(step, count) of the steps that run whole, and of the others."""
    run = _Run(torch.empty(steps), ())
    served = [step for step in range(steps) if not run.runs(step)]
    return [(0, steps - len(served))] + ([(served[0], len(served))] if served else [])
