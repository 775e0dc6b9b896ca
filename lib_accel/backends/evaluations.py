"""Which evaluations of a diffusers scheduler make up a step."""

from __future__ import annotations

from typing import Any

import torch


def steps_of_places(scheduler: Any, count: int) -> list[int]:
    """The step of every place of a schedule of ``count`` timesteps.

    Most schedulers evaluate once per step, and may list a timestep twice all the same (several places of a steep noise schedule round to
    one). Heun's, KDPM2's and the SDE solver list two evaluations per step, Runge-Kutta's start of PNDM four. An evaluation counts to the
    step whose noise level it has reached or is on its way to, so steps follow the noise down.
    """
    order = getattr(scheduler, "order", 1)
    if isinstance(order, int) and order > 1:
        return [-(-place // order) for place in range(count)]
    runge_kutta, repeated = _pndm(scheduler)
    steps, step = [], 0
    for place in range(count):
        if place:
            inside = place <= runge_kutta and (place - 1) % 4 != 0
            step += not (inside or place == repeated)
        steps.append(step)
    return steps


def _pndm(scheduler: Any) -> tuple[int, int | None]:
    """The last place before which PNDM's steps have four evaluations, 0 when none; and the place that repeats the one before it."""
    prk, plms = getattr(scheduler, "prk_timesteps", None), getattr(scheduler, "plms_timesteps", None)
    if prk is None or plms is None:
        return 0, None
    if len(prk):
        return len(prk), None
    first = [float(value) for value in torch.as_tensor(plms.copy() if hasattr(plms, "copy") else plms).flatten()[:3]]
    return 0, 2 if len(first) > 2 and first[1] == first[2] else None
