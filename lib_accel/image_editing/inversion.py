"""Real pictures as starting points of edits: DDIM inversion, negative-prompt inversion, null-text inversion. diffusers' pipelines.

Sources: Denoising Diffusion Implicit Models (Song et al., arXiv 2010.02502); Null-text Inversion for Editing Real Images using Guided
Diffusion Models (Mokady et al., arXiv 2211.09794); Negative-prompt Inversion (Miyake et al., arXiv 2305.16807).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..core.fields import SettingError
from .reach import execution_device

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
    """What a pipeline's U-Net predicts, and its steps by that, inside `ddim`.

    given: as `text.embeddings`, of one prompt. size: (height, width) in pixels. call: further arguments of the pipeline's call that draws
    the edits; what the U-Net is told by them it is told here.
    """

    def __init__(self, pipe: Any, given: dict[str, torch.Tensor], size: tuple[int, int], call: Mapping[str, Any] | None = None) -> None:
        call = call or {}
        self.pipe, self.given, self._attention = pipe, given, call.get("cross_attention_kwargs")
        own = [call.get("original_size") or size, call.get("crops_coords_top_left") or (0, 0), call.get("target_size") or size]
        others = [
            call.get("negative_original_size"),
            call.get("negative_crops_coords_top_left") or (0, 0),
            call.get("negative_target_size"),
        ]
        # SDXL's pipelines ask for both sizes, else the negative prompt's are the prompt's.
        sizes = {False: own, True: own if None in others else others}
        like = {"dtype": pipe.unet.dtype, "device": execution_device(pipe)}
        self._times = {negative: torch.tensor([[side for pair in pairs for side in pair]], **like) for negative, pairs in sizes.items()}

    def __call__(self, latents: torch.Tensor, timestep: int, text: torch.Tensor, negative: bool = False) -> torch.Tensor:
        """[1, channels, h, w] for latents of that shape and ``text`` [1, K, width]. negative: as for the negative prompt."""
        more: dict[str, Any] = {"cross_attention_kwargs": dict(self._attention)} if self._attention else {}
        if "pooled_prompt_embeds" in self.given:
            pooled = self.given["negative_pooled_prompt_embeds" if negative else "pooled_prompt_embeds"][:1]
            more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": self._times[negative]}
        return self.pipe.unet(latents, timestep, text, return_dict=False, **more)[0]

    def step(self, latents: torch.Tensor, predicted: torch.Tensor, timestep: int, scheduler: Any = None) -> torch.Tensor:
        """The latents behind ``timestep`` by the pipeline's scheduler, or by another; worked out in float32."""
        return (scheduler or self.pipe.scheduler).step(predicted.float(), timestep, latents.float()).prev_sample.to(latents.dtype)


@contextmanager
def ddim(pipe: Any, how: str = "ddim") -> Iterator[None]:
    """The pipeline with the deterministic scheduler that inversions go back along; its own afterwards. SettingError where its own has
    noise levels that this one does not know. how: the inversion, for the sentence."""
    from diffusers import DDIMScheduler

    own = pipe.scheduler
    if "beta_schedule" not in own.config:
        raise SettingError(f"inversion is {how!r}; the pipeline's scheduler must have betas for it, as {type(own).__name__} has not.")
    # Null-text inversion takes gradients through its steps.
    with torch.inference_mode(False):
        pipe.scheduler = DDIMScheduler.from_config(own.config, clip_sample=False, set_alpha_to_one=False, timestep_spacing="leading")
    try:
        yield
    finally:
        pipe.scheduler = own


def invert(
    pipe: Any,
    how: str,
    latents: torch.Tensor,
    given: dict[str, torch.Tensor],
    steps: int,
    guidance: float,
    size: tuple[int, int],
    call: Mapping[str, Any] | None = None,
) -> Inverted:
    """``latents`` [1, channels, h, w] of a picture back to noise, inside `ddim`. SettingError for an unknown ``how`` (`INVERSIONS`)
    and for a U-Net that predicts pictures.

    given: embeddings of the source prompt; see `text.embeddings`. guidance: the scale of the edits to come (null-text fits it). size,
    call: see `Predictor`. ``null_text`` needs gradients through the U-Net: several times the memory, minutes.
    """
    if how not in INVERSIONS:
        raise SettingError(f"inversion is {how!r}; it must be one of {', '.join(map(repr, INVERSIONS))}, or None.")
    predicts = pipe.scheduler.config.prediction_type
    if predicts not in ("epsilon", "v_prediction"):
        raise SettingError(f"inversion is {how!r}; the U-Net must predict 'epsilon' or 'v_prediction' for it, not {predicts!r}.")
    if how == "null_text" and any(weight.is_inference() for weight in pipe.unet.parameters()):
        raise SettingError("inversion is 'null_text'; it needs gradients through the U-Net, whose weights came to be under inference_mode.")
    pipe.scheduler.set_timesteps(steps, device=execution_device(pipe))
    predictor = Predictor(pipe, given, size, call)
    text, negative = given["prompt_embeds"][:1], given["negative_prompt_embeds"][:1]
    trajectory = back_to_noise(predictor, latents, text)
    if how == "ddim":
        return Inverted(trajectory[-1])
    if how == "negative_prompt":
        return Inverted(trajectory[-1], [text])
    with torch.inference_mode(False):
        # What was computed under inference mode cannot be differentiated; copies can.
        predictor = Predictor(pipe, {name: value.clone() for name, value in given.items()}, size, call)
        trajectory = [latents.clone() for latents in trajectory]
        return Inverted(trajectory[-1], null_texts(predictor, trajectory, text.clone(), negative.clone(), guidance))


@torch.no_grad()
def back_to_noise(predictor: Predictor, latents: torch.Tensor, text: torch.Tensor) -> list[torch.Tensor]:
    """[steps + 1] latents from the picture to the noise, without guidance."""
    from diffusers import DDIMInverseScheduler

    # What it does not know of a configuration it complains of.
    known = inspect.signature(DDIMInverseScheduler).parameters
    config = {name: value for name, value in predictor.pipe.scheduler.config.items() if name in known}
    scheduler, trajectory = DDIMInverseScheduler.from_config(config), [latents]
    scheduler.set_timesteps(len(predictor.pipe.scheduler.timesteps), device=latents.device)
    for time in scheduler.timesteps.tolist():
        trajectory.append(predictor.step(trajectory[-1], predictor(trajectory[-1], time, text), time, scheduler))
    return trajectory


def null_texts(
    predictor: Predictor, trajectory: list[torch.Tensor], text: torch.Tensor, negative: torch.Tensor, guidance: float
) -> list[torch.Tensor]:
    """For every step the embeddings [1, K, width] in the negative prompt's place with which guided steps follow ``trajectory`` back.

    At most 10 updates of Adam per step from the last step's embeddings; the rate falls from 0.01 to half of that at the end (published for
    50 steps, here for any number), a loss below 1e-5 + 2e-5 i (of 50) is enough.
    """
    times = predictor.pipe.scheduler.timesteps.tolist()
    latents, found = trajectory[-1], []
    negative = negative.detach().float()
    for index, time in enumerate(times):
        goal, place = trajectory[-index - 2], 50 * index / len(times)
        with torch.no_grad():
            with_text = predictor(latents, time, text)
        if guidance > 1:
            negative = _fit(predictor, latents, with_text, goal, negative, time, guidance, place)
        found.append(negative.to(text.dtype))
        with torch.no_grad():
            without = predictor(latents, time, found[-1], negative=True)
            latents = predictor.step(latents, without + guidance * (with_text - without), time)
    return found


def _fit(
    predictor: Predictor,
    latents: torch.Tensor,
    with_text: torch.Tensor,
    goal: torch.Tensor,
    negative: torch.Tensor,
    time: int,
    guidance: float,
    place: float,
) -> torch.Tensor:
    """``negative`` fitted so that the guided step at ``time`` from ``latents`` arrives at ``goal``. place: of the published 50 steps."""
    with torch.enable_grad():
        free = negative.clone().requires_grad_(True)
        adam = torch.optim.Adam([free], lr=RATE * (1 - place / 100))
        for _ in range(INNER_STEPS):
            without = predictor(latents, time, free.to(latents.dtype), negative=True)
            arrived = predictor.step(latents, without + guidance * (with_text - without), time)
            loss = torch.nn.functional.mse_loss(arrived.float(), goal.float())
            (gradient,) = torch.autograd.grad(loss, free)
            free.grad = gradient
            adam.step()
            if float(loss.detach()) < 1e-5 + 2e-5 * place:
                break
    return free.detach()
