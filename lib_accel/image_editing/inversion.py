"""Real pictures as starting points of edits: DDIM inversion, negative-prompt inversion, null-text inversion. diffusers' pipelines.

Sources: Denoising Diffusion Implicit Models (Song et al., arXiv 2010.02502); Null-text Inversion for Editing Real Images using Guided
Diffusion Models (Mokady et al., arXiv 2211.09794); Negative-prompt Inversion (Miyake et al., arXiv 2305.16807).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..core.fields import SettingError

INVERSIONS = ("ddim", "negative_prompt", "null_text")
# As published: at most so many updates per step, and how the rate falls.
INNER_STEPS = 10
RATE = 1e-2


@dataclass(frozen=True)
class Inverted:
    """A picture's way back to noise. noise: [1, channels, h, w], the start. negative: for every step the embeddings [1, K, width] that
    stand for the negative prompt, or one for all steps, or None for the pipeline's own.
    """

    noise: torch.Tensor
    negative: list[torch.Tensor] | None = None


class Predictor:
    """The noise that a pipeline's U-Net predicts. given: as `text.embeddings`, of one prompt. size: (height, width) in pixels."""

    def __init__(self, pipe: Any, given: dict[str, torch.Tensor], size: tuple[int, int]) -> None:
        self.pipe, self.given = pipe, given
        self._times = torch.tensor([[*size, 0, 0, *size]], dtype=pipe.unet.dtype, device=pipe.unet.device)

    def __call__(self, latents: torch.Tensor, timestep: int, text: torch.Tensor, negative: bool = False) -> torch.Tensor:
        """[1, channels, h, w] for latents of that shape and ``text`` [1, K, width]. negative: with the negative prompt's pooled text."""
        more = {}
        if "pooled_prompt_embeds" in self.given:
            pooled = self.given["negative_pooled_prompt_embeds" if negative else "pooled_prompt_embeds"][:1]
            more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": self._times}
        out = self.pipe.unet(latents, timestep, text, return_dict=False, **more)[0]
        if self.pipe.scheduler.config.prediction_type == "v_prediction":
            share = self.share(timestep)
            return share**0.5 * out + (1 - share) ** 0.5 * latents
        return out

    def share(self, timestep: int) -> torch.Tensor:
        """The picture's share of the variance (alpha bar) at ``timestep``; below 0 the schedule's last."""
        scheduler = self.pipe.scheduler
        return scheduler.alphas_cumprod[timestep] if timestep >= 0 else scheduler.final_alpha_cumprod

    def move(self, latents: torch.Tensor, predicted: torch.Tensor, at: int, to: int) -> torch.Tensor:
        """DDIM's step between two timesteps, in either direction."""
        here, there = (self.share(timestep).to(latents.device, torch.float32) for timestep in (at, to))
        wide = latents.float()
        clean = (wide - (1 - here) ** 0.5 * predicted.float()) / here**0.5
        return (there**0.5 * clean + (1 - there) ** 0.5 * predicted.float()).to(latents.dtype)


@contextmanager
def ddim(pipe: Any) -> Iterator[None]:
    """The pipeline with the deterministic scheduler that inversions go back along; its own afterwards."""
    from diffusers import DDIMScheduler

    own = pipe.scheduler
    pipe.scheduler = DDIMScheduler.from_config(own.config, clip_sample=False, set_alpha_to_one=False, timestep_spacing="leading")
    try:
        yield
    finally:
        pipe.scheduler = own


def invert(
    pipe: Any, how: str, latents: torch.Tensor, given: dict[str, torch.Tensor], steps: int, guidance: float, size: tuple[int, int]
) -> Inverted:
    """``latents`` [1, channels, h, w] of a picture back to noise, inside `ddim`. SettingError for an unknown ``how`` (`INVERSIONS`)
    and for a U-Net that predicts pictures.

    given: embeddings of the source prompt; see `text.embeddings`. guidance: the scale of the edits to come (null-text fits it). size:
    (height, width) in pixels. ``null_text`` needs gradients through the U-Net: several times the memory, minutes.
    """
    if how not in INVERSIONS:
        raise SettingError(f"inversion is {how!r}; it must be one of {', '.join(map(repr, INVERSIONS))}, or None.")
    predicts = pipe.scheduler.config.prediction_type
    if predicts not in ("epsilon", "v_prediction"):
        raise SettingError(f"inversion is {how!r}; the U-Net must predict 'epsilon' or 'v_prediction' for it, not {predicts!r}.")
    pipe.scheduler.set_timesteps(steps, device=pipe.unet.device)
    predictor = Predictor(pipe, given, size)
    text, negative = given["prompt_embeds"][:1], given["negative_prompt_embeds"][:1]
    trajectory = back_to_noise(predictor, latents, text)
    if how == "ddim":
        return Inverted(trajectory[-1])
    if how == "negative_prompt":
        return Inverted(trajectory[-1], [text])
    return Inverted(trajectory[-1], null_texts(predictor, trajectory, text, negative, guidance))


def timesteps_of(pipe: Any) -> tuple[list[int], int]:
    """The timesteps of the pass, from noise to picture, and how far they lie apart."""
    times = [int(time) for time in pipe.scheduler.timesteps]
    return times, pipe.scheduler.config.num_train_timesteps // len(times)


@torch.no_grad()
def back_to_noise(predictor: Predictor, latents: torch.Tensor, text: torch.Tensor) -> list[torch.Tensor]:
    """[steps + 1] latents from the picture to the noise, without guidance."""
    times, apart = timesteps_of(predictor.pipe)
    trajectory = [latents]
    for time in reversed(times):
        predicted = predictor(trajectory[-1], time, text)
        trajectory.append(predictor.move(trajectory[-1], predicted, time - apart, time))
    return trajectory


def null_texts(
    predictor: Predictor, trajectory: list[torch.Tensor], text: torch.Tensor, negative: torch.Tensor, guidance: float
) -> list[torch.Tensor]:
    """For every step the embeddings [1, K, width] in the negative prompt's place with which guided steps follow ``trajectory`` back.

    At most 10 updates of Adam per step from the last step's embeddings; the rate falls from 0.01 to half of that at the end (published for
    50 steps, here for any number), a loss below 1e-5 + 2e-5 i (of 50) is enough.
    """
    times, apart = timesteps_of(predictor.pipe)
    latents, found = trajectory[-1], []
    negative = negative.detach().float()
    for index, time in enumerate(times):
        goal, place = trajectory[-index - 2], 50 * index / len(times)
        with torch.no_grad():
            with_text = predictor(latents, time, text)
        if guidance > 1:
            negative = _fit(predictor, latents, with_text, goal, negative, (time, time - apart), guidance, place)
        found.append(negative.to(text.dtype))
        with torch.no_grad():
            without = predictor(latents, time, found[-1], negative=True)
            latents = predictor.move(latents, without + guidance * (with_text - without), time, time - apart)
    return found


def _fit(
    predictor: Predictor,
    latents: torch.Tensor,
    with_text: torch.Tensor,
    goal: torch.Tensor,
    negative: torch.Tensor,
    times: tuple[int, int],
    guidance: float,
    place: float,
) -> torch.Tensor:
    """``negative`` fitted so that the guided step over ``times`` from ``latents`` arrives at ``goal``. place: of the published 50 steps."""
    with torch.enable_grad():
        free = negative.clone().requires_grad_(True)
        adam = torch.optim.Adam([free], lr=RATE * (1 - place / 100))
        for _ in range(INNER_STEPS):
            without = predictor(latents, times[0], free.to(latents.dtype), negative=True)
            arrived = predictor.move(latents, without + guidance * (with_text - without), *times)
            loss = torch.nn.functional.mse_loss(arrived.float(), goal.float())
            (gradient,) = torch.autograd.grad(loss, free)
            free.grad = gradient
            adam.step()
            if float(loss.detach()) < 1e-5 + 2e-5 * place:
                break
    return free.detach()
