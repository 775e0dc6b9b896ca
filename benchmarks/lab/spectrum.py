"""Spectrum as a peer (arXiv 2603.01623): whole model calls are forecast on a fixed plan, by a fit of Chebyshev polynomials over time.

Written anew from its formulas, with the defaults that its users have. For diffusers pipelines.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from lib_accel.backends import backend_for
from lib_accel.backends.noise_levels import levels_of
from lib_accel.cli.errors import CommandError
from lib_accel.core.noise import Noise
from lib_accel.core.noise_view import NoiseView
from lib_accel.core.sites import find_unet

WARM_UP = 6
# Every second step behind the warm-up runs, and every step behind this part of them.
WINDOW = 2
STOP = 0.9
DEGREE = 6
RIDGE = 0.5
# How much of the fit there is in a forecast; the rest is the line through the last two calls.
PART = 0.25
TRAINED = 1000
KEPT = max(DEGREE + 2, 8)


@dataclass
class _Kept:
    """What was predicted of the picture, and when, by one call of every step: where each text has its own, there are several."""

    times: list[float] = field(default_factory=list)
    pictures: list[torch.Tensor] = field(default_factory=list)

    def keep(self, time: float, picture: torch.Tensor) -> None:
        self.times, self.pictures = [*self.times, time][-KEPT:], [*self.pictures, picture][-KEPT:]

    def forecast(self, now: float) -> torch.Tensor:
        times = torch.tensor(self.times)
        values = torch.stack([picture.flatten() for picture in self.pictures])
        basis, wanted = _chebyshev(times), _chebyshev(torch.tensor([now]))
        normal = basis.T @ basis + RIDGE * torch.eye(basis.shape[1])
        fit = torch.cholesky_solve(basis.T @ values.cpu().float(), torch.linalg.cholesky(normal))
        curve = (wanted @ fit).to(values)[0]
        line = values[-1] + (now - self.times[-1]) / (self.times[-1] - self.times[-2]) * (values[-1] - values[-2])
        return ((1 - PART) * line + PART * curve).view_as(self.pictures[-1])


@dataclass
class _Run:
    """One run of the pipeline: the step that it is in, which call of it, and what was kept."""

    timesteps: torch.Tensor
    levels: tuple[float, ...]
    step: int = -1
    call: int = 0
    full: bool = True
    skipped: int = 0
    kept: list[_Kept] = field(default_factory=list)

    def time(self) -> float:
        return 2 * self.step / len(self.timesteps) - 1

    def runs(self, step: int) -> bool:
        """Whether the model runs in ``step``; asked once for each."""
        steps = len(self.timesteps)
        full = step < WARM_UP or step >= int(steps * STOP) or (self.skipped + 1) % WINDOW == 0
        self.skipped = 0 if full else self.skipped + 1
        return full

    def at(self, step: int) -> _Kept:
        """What is kept of the call that follows, in ``step``."""
        if step != self.step:
            self.step, self.call, self.full = step, 0, self.runs(step)
        self.call += 1
        while len(self.kept) < self.call:
            self.kept.append(_Kept())
        return self.kept[self.call - 1]


@contextmanager
def spectrum(model: Any) -> Iterator[None]:
    """The model of the pipeline ``model`` under Spectrum. CommandError for what is no pipeline."""
    if not hasattr(model, "scheduler"):
        raise CommandError("it follows a pipeline's schedule (--pipeline, or --model)")
    unet, noises = find_unet(model), NoiseView(model)
    had, own, backend = vars(unet).get("forward"), unet.forward, backend_for(unet)
    state: dict[str, _Run] = {}

    # Pipelines ask a model's forward what it takes.
    @functools.wraps(own)
    def forward(*args: Any, **given: Any) -> Any:
        timesteps = model.scheduler.timesteps
        if "run" not in state or state["run"].timesteps is not timesteps:
            levels = levels_of(model.scheduler)
            if levels is None:
                raise CommandError("the scheduler's noise levels are not known")
            state["run"] = _Run(timesteps, levels)
        run, sample = state["run"], backend.sample_of(args, given)
        step = _step_of(model.scheduler, backend.timestep_of(args, given))
        kept, noise = run.at(step), Noise(noises.kind, run.levels[step])
        turned = -1 if _is_turned(args, given, noise) else 1
        if not run.full:
            prediction = turned * noise.from_picture(kept.forecast(run.time()), sample)
            return backend.output_of(unet, args, given, prediction.to(sample.dtype))
        out = own(*args, **given)
        prediction = backend.prediction_of(out)
        if prediction is None or prediction.shape != sample.shape:
            raise CommandError(f"what {type(unet).__name__} returns is not of the shape of its latents")
        kept.keep(run.time(), noise.as_picture(turned * prediction, sample))
        return out

    vars(unet)["forward"] = forward
    try:
        yield
    finally:
        del vars(unet)["forward"]
        if had is not None:
            vars(unet)["forward"] = had


def _step_of(scheduler: Any, timestep: Any) -> int:
    """The step that a call belongs to: by its timestep, which transformers are told in ways of their own; then by how many were made."""
    if timestep is not None:
        # A model may be told it once for each row.
        return int((scheduler.timesteps == torch.as_tensor(timestep).flatten()[0]).nonzero()[0])
    if not hasattr(scheduler, "_step_index"):
        raise CommandError(f"{type(scheduler).__name__} does not count its steps")
    return scheduler._step_index or 0


def _is_turned(args: tuple, given: dict[str, Any], noise: Noise) -> bool:
    """Whether a flow-matching model's time goes from noise to picture, and its velocity with it."""
    told = next(
        (given[name] for name in ("timestep", "t") if isinstance(given.get(name), torch.Tensor)), args[1] if len(args) > 1 else None
    )
    if not isinstance(told, torch.Tensor) or noise.kind != "flow":
        return False
    time = told.flatten()[0].item()
    time = time / TRAINED if time > 1 else time
    return abs(time - noise.noise) > abs(1 - time - noise.noise)


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
