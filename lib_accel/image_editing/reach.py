"""What of a pipeline an edit reaches, said before anything is drawn: its call, its rows, its attention layers, its device."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
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
# Arguments that calls still take without naming them.
OLD = ("callback", "callback_steps")
KIND = "it must be a text-to-image pipeline of Stable Diffusion or SDXL"


def checked_pipeline(pipe: Any) -> Any:
    """``pipe``, if it draws pictures from text with a U-Net whose attention can be edited. SettingError for others."""
    name = type(pipe).__name__
    lacks = [part for part in ("unet", "vae", "scheduler", "vae_scale_factor") if getattr(pipe, part, None) is None]
    # Those that start from a picture choose among timesteps.
    if lacks or hasattr(pipe, "get_timesteps"):
        raise SettingError(f"pipe is {name}; {KIND}.")
    takes = _takes(pipe)
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


def _takes(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """What its call takes, by name."""
    return inspect.signature(type(pipe).__call__).parameters


def check_call(pipe: Any, call: Mapping[str, Any], inversion: str | None) -> None:
    """SettingError where ``call``, further arguments of the call of ``pipe``, holds one that it would pass over or that is taken, and where
    an inversion would run the U-Net without something that the pipeline tells it beside the texts."""
    takes, its_own = _takes(pipe), inspect.unwrap(type(pipe).__call__).__module__.startswith("diffusers.")
    # Diffusers' calls take any name, and pass over those that they do not know.
    unknown = next((name for name in call if its_own and name not in takes and name not in OLD), None)
    if unknown is not None:
        raise SettingError(f"pipeline has {unknown!r}; the call of {type(pipe).__name__} takes no such argument.")
    if "image" in call and hasattr(pipe, "get_timesteps"):
        raise SettingError("pipeline has 'image'; with strength that is the edited picture, and a ControlNet's is 'control_image'.")
    untold = next((what for what, is_told in _told_beside_texts(pipe) if is_told), None)
    if inversion is not None and untold is not None:
        raise SettingError(f"inversion is {inversion!r}; it runs the U-Net without {untold}, so use strength, or a pipeline without it.")


def _told_beside_texts(pipe: Any) -> Iterator[tuple[str, bool]]:
    """What pipelines tell their U-Nets, in words, and whether ``pipe`` does."""
    yield "the pipeline's ControlNet", getattr(pipe, "controlnet", None) is not None
    yield "the IP-Adapter", getattr(pipe.unet.config, "encoder_hid_dim_type", None) == "ip_image_proj"
    yield "the guidance scale that it was trained to be told", getattr(pipe.unet.config, "time_cond_proj_dim", None) is not None


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
