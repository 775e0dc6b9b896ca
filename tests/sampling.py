"""Samplers in the form of k-diffusion's, on tiny U-Nets: they tell their steps, noise levels and rows, and keep what every call gave."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import guided
import models
import torch

from lib_accel import Row

KARRAS = tuple((14.6 ** (1 / 7) + place / 11 * (0.03 ** (1 / 7) - 14.6 ** (1 / 7))) ** 7 for place in range(12))
# Twelve steps; the last goes to 0.
LEVELS = (*KARRAS, 0.0)


def rows_of(images: int, parts: int = 1) -> tuple[Row, ...]:
    """Diffusers' order."""
    return (*(Row("uncond", i) for i in range(images)), *(Row("cond", i, k, 1 / parts) for i in range(images) for k in range(parts)))


@dataclass
class Run:
    """latents: [images, 4, h, w] at the end. given: for each step the prediction of every row, by its key. ran: rows that ran, by step."""

    latents: torch.Tensor
    given: list[dict] = field(default_factory=list)
    ran: list[int] = field(default_factory=list)


def sample(
    unet,
    accelerator,
    sampler="Euler",
    sigmas=LEVELS,
    images=1,
    guidance=3.0,
    apart=False,
    first_image=0,
    size=16,
    channels=4,
    rows=None,
    begin=0,
    predicts="epsilon",
    **told,
):
    """A pass: Euler's steps, whatever the sampler is called (what is served does not depend on them); more is told as it is."""
    layout = rows or rows_of(images)
    calls = ([row for row in layout if row.role == "cond"], [row for row in layout if row.role != "cond"]) if apart else (layout,)
    counted = guided.rows_run(unet)
    shape = (4, size, size)
    x = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(100 + first_image + i)) for i in range(images)]) * sigmas[0]
    run = Run(x)
    for step in range(begin, len(sigmas) - 1):
        sigma, after = sigmas[step], sigmas[step + 1]
        scale = guidance(step) if callable(guidance) else guidance
        more = {name: value(step) if callable(value) else value for name, value in told.items()}
        given = {"guidance": scale, "sigma": sigma, "sampler": sampler, "sigmas": sigmas} | more
        accelerator.step(step, len(sigmas) - 1, [row for call in calls for row in call], **given)
        predictions, before = {}, len(counted)
        for call in calls:
            latents = torch.cat([x[row.image : row.image + 1] for row in call]) / math.hypot(1, sigma)
            if channels > 4:
                latents = torch.cat([latents, torch.ones(len(call), channels - 4, size, size)], 1)
            text = guided.given_to([Row(row.role, row.image + first_image, row.part) for row in call]).text
            out = models.call(
                unet, models.SimpleNamespace(latents=latents, timestep=torch.full((len(call),), 999 * sigma / 14.6), text=text)
            )
            predictions |= {row.key: one for row, one in zip(call, out)}
        epsilon = torch.stack([_guided(predictions, layout, image, scale) for image in range(images)])
        x = x + (after - sigma) * epsilon
        run.given.append(predictions)
        run.ran.append(sum(counted[before:]))
    run.latents = x
    return run


def _guided(predictions, layout, image, guidance):
    uncond = predictions[("uncond", image, 0)]
    parts = [row for row in layout if row.role == "cond" and row.image == image]
    return uncond + guidance * sum(row.weight * (predictions[row.key] - uncond) for row in parts)
