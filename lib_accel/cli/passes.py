"""One generation of a diffusers pipeline of any kind: what it is asked, and what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..backends import backend_for
from ..core.sites import find_unet
from ..image_editing.starting import checked_seed
from .errors import CommandError


def asked(
    pipeline: Any,
    prompt: str,
    steps: int,
    guidance: float,
    size: int,
    seed: int = 0,
    pictures: int = 1,
    latents: bool = False,
    embedded: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The arguments of one generation: those of them that ``pipeline`` takes. CommandError where it cannot be asked with words alone.

    Guidance that is in the model itself is given as the scale; where the pipeline has another one for the negative prompt, that one.
    latents: they are returned as they are. embedded: given in place of the prompt.
    """
    takes = _takes(pipeline)
    if not embedded and ("prompt" not in takes or not _reads(pipeline)):
        raise CommandError(f"the pipeline is a {type(pipeline).__name__}; it must take a prompt and have a text encoder.")
    check_needs_no_picture(pipeline)
    words = embedded or {"prompt": prompt, "num_images_per_prompt": pictures, "num_videos_per_prompt": pictures}
    given: dict[str, Any] = {**words, "num_inference_steps": steps, "guidance_scale": guidance, "width": size, "height": size}
    given |= {"num_frames": 1, "use_resolution_binning": False}
    if "true_cfg_scale" in takes and guidance > 1 and not _holds_guidance(pipeline):
        given |= {"true_cfg_scale": guidance, "negative_prompt": " "}
    if _is_longer(takes.get("max_sequence_length"), most := _longest_text(pipeline)):
        given["max_sequence_length"] = most
    given["generator"] = torch.Generator().manual_seed(checked_seed(seed))
    if latents:
        given["output_type"] = "latent"
    return {name: value for name, value in given.items() if name in takes}


def check_needs_no_picture(pipeline: Any) -> None:
    """CommandError where ``pipeline`` starts from a picture or follows one."""
    takes = _takes(pipeline)
    picture = next((name for name in ("image", "control_image", "mask_image", "video") if _is_needed(takes.get(name))), None)
    # Many name a picture that they cannot do without as if they could: those that choose among timesteps, fill in, or follow a ControlNet.
    starts = hasattr(pipeline, "get_timesteps") and "num_frames" not in takes
    if picture is None and "image" in takes and (starts or "mask_image" in takes or "controlnet" in pipeline.components):
        picture = "image"
    if picture is not None:
        raise CommandError(f"the pipeline is a {type(pipeline).__name__}, which needs {picture}; it must draw from a prompt alone.")


def _takes(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    """What its call takes, by name."""
    return inspect.signature(type(pipeline).__call__).parameters


def _reads(pipeline: Any) -> bool:
    """Whether any of its text encoders is there."""
    parts = pipeline.components
    return any(isinstance(part, nn.Module) for name, part in parts.items() if name.startswith("text_encoder"))


def _longest_text(pipeline: Any) -> int | None:
    """How many tokens the last of its text encoders, which reads word by word, can read; None where there is no limit."""
    encoders = [part for name, part in pipeline.components.items() if name.startswith("text_encoder") and isinstance(part, nn.Module)]
    most = getattr(getattr(encoders[-1], "config", None), "max_position_embeddings", None) if encoders else None
    return most if isinstance(most, int) else None


def _is_longer(argument: inspect.Parameter | None, most: int | None) -> bool:
    """Whether texts that ``argument`` gives the length of are longer, if nobody says another one."""
    return argument is not None and most is not None and isinstance(argument.default, int) and argument.default > most


def _is_needed(argument: inspect.Parameter | None) -> bool:
    return argument is not None and argument.default is inspect.Parameter.empty


def _holds_guidance(pipeline: Any) -> bool:
    """Whether its model is given the guidance scale."""
    return bool(getattr(getattr(find_unet(pipeline), "config", None), "guidance_embeds", False))


def first_of(out: Any) -> Any:
    """The first thing that a pipeline's call returned: pictures, or frames of videos."""
    return out[0] if isinstance(out, tuple) else next(iter(out.values()))


def picture_of(out: Any) -> np.ndarray:
    """The first picture (or frame) that a pipeline's call returned: uint8 of shape (height, width, 3)."""
    held = first_of(out)
    while not isinstance(held, Image.Image) and not (isinstance(held, np.ndarray) and held.ndim == 3):
        held = held[0]
    if isinstance(held, np.ndarray):
        held = Image.fromarray((held.clip(0, 1) * 255).round().astype(np.uint8))
    return np.array(held.convert("RGB"))


def noun(model: nn.Module) -> str:
    """What ``model`` is called in words."""
    return backend_for(model).noun


def one_call(pipeline: Any, prompt: str, size: int, guidance: float, pictures: int) -> tuple[tuple, dict[str, Any]]:
    """What a pass of ``pipeline`` gives its model in the first call."""
    seen: list[tuple[tuple, dict[str, Any]]] = []

    def see(module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.append((args, kwargs))

    handle = find_unet(pipeline).register_forward_pre_hook(see, with_kwargs=True)
    try:
        with torch.no_grad():
            pipeline(**asked(pipeline, prompt, 2, guidance, size, pictures=pictures, latents=True))
    finally:
        handle.remove()
    return seen[0]
