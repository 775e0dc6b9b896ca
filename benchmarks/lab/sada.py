"""SADA's step-wise part as a peer (Jiang et al., ICML 2025, arXiv 2507.17135): a criterion on the trajectory decides what is skipped.

Written anew from the paper's formulas, with the constants and settings (given for 50 steps) of its published code at commit bbbadce; its
pruning of tokens is left out, and with fewer than 40 steps its cubic through every fourth picture: it ruins pictures there (13 dB at 25
steps). For diffusers pipelines with Euler or DPM++ 2M that predict the noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from lib_accel.cli.errors import CommandError
from lib_accel.core.sites import find_unet

FIRST, LAST, CUBIC = 10 / 50, 47 / 50, 24 / 50  # parts of the steps: skipping begins, it ends, the cubic takes over
EVERY = 4  # the cubic goes through so many pictures, which are so many steps apart
LONGEST = 4  # steps skipped in a row
CUBIC_FROM = 40  # steps


@dataclass
class _Run:
    """One run of the pipeline: the last two gradients, what is served next, and the pictures that the cubic goes through."""

    steps: int
    # Counted: two steps may share a timestep.
    step: int = 0
    gradients: list[torch.Tensor] = field(default_factory=list)
    picture: torch.Tensor | None = None
    in_a_row: int = 0
    kept: list[tuple[int, torch.Tensor]] = field(default_factory=list)

    def keep(self, step: int, picture: torch.Tensor) -> None:
        if step % EVERY == 1:
            self.kept = [*self.kept, (step, picture)][-EVERY:]

    def how(self, step: int, stable: bool) -> str | None:
        """How the step behind ``step`` is served, ``held`` or ``cubic``; None: it runs."""
        cubic = round(CUBIC * self.steps / EVERY) * EVERY if self.steps >= CUBIC_FROM else self.steps
        if self.in_a_row >= LONGEST or not max(round(FIRST * self.steps), 3) <= step < round(LAST * self.steps):
            return None
        if step < cubic:
            return "held" if stable else None
        return "cubic" if step % EVERY and len(self.kept) == EVERY else None


@contextmanager
def sada(model: Any) -> Iterator[None]:
    """The pipeline ``model`` under SADA. CommandError for another sampler or prediction than those that it is written for."""
    scheduler, unet = getattr(model, "scheduler", None), find_unet(model)
    kind = type(scheduler).__name__
    if kind not in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler") or scheduler.config.prediction_type != "epsilon":
        raise CommandError("it is for Euler and DPM++ 2M, with models that predict the noise")
    # Euler's latents are the picture plus noise; the others' are scaled down to the variance that the model was trained on.
    scaled = kind == "EulerDiscreteScheduler"
    had = {thing: dict(vars(thing)) for thing in (unet, scheduler)}
    forward, step_of = unet.forward, scheduler.step
    state: dict[str, Any] = {}

    def call(sample: torch.Tensor, *args: Any, **given: Any) -> Any:
        if state.get("timesteps") is not scheduler.timesteps:
            state.update(timesteps=scheduler.timesteps, run=_Run(len(scheduler.timesteps)), out=None)
        if state["run"].picture is None:
            state["out"] = forward(sample, *args, **given)
        return state["out"]

    def step(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **given: Any) -> Any:
        run = state["run"]
        index, run.step = run.step, run.step + 1
        sigma, following = (float(level) for level in scheduler.sigmas[index : index + 2])
        noise = model_output
        latents = sample if scaled else sample * (1 + sigma**2) ** 0.5
        served, run.picture = run.picture, None
        run.keep(index, latents - sigma * noise if served is None else served)
        taken = noise if served is None else (latents - served) / sigma
        result = step_of(taken, timestep, sample, *args, **given)
        after = result[0] if isinstance(result, tuple) else result.prev_sample
        # The gradient of the latents as the model sees them, over one training step: SADA's code multiplies it by that and no more.
        seen, part = latents / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5
        gradient = 0.5 * float(scheduler.betas[int(timestep)]) * (noise / part - seen)
        if len(run.gradients) == 2:
            older, newer = run.gradients
            foreseen = seen - 0.625 * gradient - 0.75 * newer + 0.375 * older
            if scaled:
                foreseen = foreseen * (1 + following**2) ** 0.5
            stable = ((after - foreseen) * (gradient - 2 * newer + older)).mean() <= 0
            how = run.how(index, bool(stable))
            run.in_a_row = run.in_a_row + 1 if how else 0
            if how == "cubic":
                run.picture = _cubic(run.kept, index + 1)
            elif how == "held":
                run.picture = (foreseen if scaled else foreseen * (1 + following**2) ** 0.5) - following * noise
        run.gradients = [*run.gradients, gradient][-2:]
        return result

    vars(unet)["forward"], vars(scheduler)["step"] = call, step
    try:
        yield
    finally:
        for thing, name in ((unet, "forward"), (scheduler, "step")):
            del vars(thing)[name]
            if name in had[thing]:
                vars(thing)[name] = had[thing][name]


def _cubic(kept: Sequence[tuple[int, torch.Tensor]], step: int) -> torch.Tensor:
    """Lagrange's polynomial through what was ``kept``, at ``step``."""
    total = torch.zeros_like(kept[0][1])
    for place, picture in kept:
        weight = 1.0
        for other, _ in kept:
            if other != place:
                weight *= (step - other) / (place - other)
        total += weight * picture
    return total
