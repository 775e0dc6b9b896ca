"""What of a pipeline an edit reaches, said before anything is drawn: its call, its rows, its attention layers, its device."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from ..backends import backend_for
from ..backends.known import PLAIN
from ..core.fields import SettingError
from ..core.sites import find_unet, held_unet, is_compiled, out_of_reach
from ..prompt_to_prompt.runner import PromptToPromptRunner

# What a pipeline's call is given.
ARGUMENTS = (
    *("prompt", "negative_prompt", "prompt_embeds", "negative_prompt_embeds", "num_inference_steps", "guidance_scale", "width", "height"),
    *("latents", "generator", "callback_on_step_end", "callback_on_step_end_tensor_inputs"),
)
KIND = "it must be a text-to-image pipeline of Stable Diffusion or SDXL"


def checked_pipeline(pipe: Any) -> Any:
    """``pipe``, if it draws pictures from text with a U-Net whose attention can be edited. SettingError for others."""
    name = type(pipe).__name__
    lacks = [part for part in ("unet", "vae", "scheduler", "vae_scale_factor") if getattr(pipe, part, None) is None]
    # Those that start from a picture choose among timesteps.
    if lacks or hasattr(pipe, "get_timesteps"):
        raise SettingError(f"pipe is {name}; {KIND}.")
    takes = inspect.signature(type(pipe).__call__).parameters
    # A call that somebody wrapped names nothing and takes what it passes on.
    passes_on = {parameter.kind for parameter in list(takes.values())[1:]} == {
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    }
    missing = [] if passes_on else [argument for argument in ARGUMENTS if argument not in takes]
    if missing or "num_frames" in takes:
        why = f"its call takes no {', '.join(missing)}" if missing else "it draws frames"
        raise SettingError(f"pipe is {name}; {KIND}, and {why}.")
    if not hasattr(type(pipe), "do_classifier_free_guidance"):
        raise SettingError(f"pipe is {name}; it does not tell which rows of its batches follow the prompt, and only those can be edited.")
    obstacle = _obstacle(pipe)
    if obstacle:
        raise SettingError(f"pipe is {name}; nothing of its attention can be edited: {obstacle}.")
    return pipe


def refuse_without_effect(pipe: Any, runner: PromptToPromptRunner) -> None:
    """SettingError, in the first step that should be edited, when nothing of it was."""
    why = runner.why_without_effect()
    if why:
        raise SettingError(f"pipe is {type(pipe).__name__}; the edit would change nothing: {why}.")


def execution_device(pipe: Any) -> torch.device:
    """Where ``pipe`` computes, which is not where its weights lie while they are offloaded."""
    return getattr(pipe, "_execution_device", None) or pipe.device


def _obstacle(pipe: Any) -> str | None:
    """Why no attention layer can be edited (a clause): the first reason; None where one can."""
    unet = find_unet(pipe)
    if is_compiled(held_unet(pipe)) or is_compiled(unet):
        return "the U-Net is compiled"
    backend, reasons = backend_for(unet), []
    for site in backend.find_sites(unet):
        for part in ("attn1", "attn2"):
            reason = out_of_reach(unet, site) or backend.obstacle(site, part, PLAIN)
            if reason is None:
                return None
            reasons.append(reason)
    return reasons[0] if reasons else "it has none"
