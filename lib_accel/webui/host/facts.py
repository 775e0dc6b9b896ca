"""What the extension reads of its host, asked for at the time of use: versions differ and models come and go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modules import devices, shared

from ...core.sites import find_unet, named
from ...engine.thresholds import Thresholds, thresholds_for
from ...settings.few_step_models import few_step_sign, loras_in
from .traits import WebuiTraits

TOKEN_MERGING = "the WebUI's own token merging is on (Settings, Optimizations)"


def unet_of(p: Any) -> Any:
    """The U-Net that a job samples with, now. The checkpoint may change between passes and within one."""
    return find_unet(p.sd_model)


def checkpoint_of(p: Any) -> Any:
    """What tells one checkpoint from another in the same model object."""
    return getattr(p.sd_model, "sd_checkpoint_info", None)


def checkpoint_name(p: Any = None) -> str:
    """The name of the checkpoint that ``p`` samples with now; without ``p`` of the one that is loaded. Empty when nobody knows."""
    model = p.sd_model if p is not None else _loaded_model()
    info = getattr(model, "sd_checkpoint_info", None)
    return " ".join(str(getattr(info, field, "") or "") for field in ("title", "model_name"))


def why_few_steps(p: Any) -> str | None:
    """Why the job ``p`` is taken for one of a few-step model (a clause), or None."""
    prompts = getattr(p, "all_prompts", None) or p.prompt
    prompts = [prompts] if isinstance(prompts, str) else prompts
    loras = {name for prompt in prompts or () for name in loras_in(str(prompt))}
    steps = None if takes_steps_as_it_likes(p) else p.steps
    return few_step_sign(steps, [checkpoint_name(p)], str(p.sampler_name or ""), p.cfg_scale, sorted(loras))


def takes_steps_as_it_likes(p: Any) -> bool:
    """Whether the sampler of the pass at hand does not go by the number of steps: DPM adaptive makes them as long as it can."""
    name = (getattr(p, "hr_sampler_name", None) if getattr(p, "is_hr_pass", False) else None) or getattr(p, "sampler_name", None)
    return "adaptive" in str(name or "").lower()


def steps_of_schedule(p: Any, from_picture: bool) -> int:
    """How many steps the schedule of the pass at hand has. from_picture: it begins with a picture, so late in that schedule."""
    if not from_picture:
        return p.steps
    from modules import sd_samplers_common

    asked = (getattr(p, "hr_second_pass_steps", 0) or p.steps) if getattr(p, "is_hr_pass", False) else None
    return sd_samplers_common.setup_img2img_steps(p, asked)[0]


def _loaded_model() -> Any:
    from modules import sd_models

    return getattr(getattr(sd_models, "model_data", None), "sd_model", None)


def loaded_unet() -> Any:
    """The U-Net of the model that is loaded; None without one. Never loads a checkpoint."""
    return getattr(getattr(_loaded_model(), "model", None), "diffusion_model", None)


def option(name: str, default: Any) -> Any:
    """An option of the host; ``default`` where this version has none or has not listed it yet."""
    return getattr(shared.opts, name, default)


@contextmanager
def overridden(p: Any) -> Iterator[None]:
    """The options that the job ``p`` brings with it are in force, as while the host runs it; models stay as they are loaded."""
    own = {key: value for key, value in (getattr(p, "override_settings", None) or {}).items() if not key.startswith("sd_")}
    data = shared.opts.data
    before = {key: data[key] for key in own if key in data}
    data.update(own)
    try:
        yield
    finally:
        for key in own:
            data.pop(key, None)
        data.update(before)


def device() -> Any:
    return devices.device


def traits() -> WebuiTraits:
    return WebuiTraits()


def table() -> tuple[Thresholds, str | None]:
    """This machine's table of thresholds, and what is to be told about it."""
    return thresholds_for(device(), traits().fused_kernel())


def obstacle(p: Any) -> str | None:
    """Why nothing of ours may act on the model of ``p`` now (a clause), or None."""
    from modules import sd_unet

    if getattr(sd_unet, "current_unet", None) is not None:
        return "off: the option sd_unet runs the U-Net elsewhere (TensorRT or the like), where no layer can be changed"
    return None


def merges_tokens(p: Any) -> bool:
    """Whether the host's own token merging is at work on the model of ``p``: it changes the layers that methods on tokens change."""
    return (getattr(p.sd_model, "applied_token_merged_ratio", 0) or 0) > 0


def spares_memory(p: Any) -> bool:
    """Whether the host moves the model in parts between main memory and the GPU (medvram, lowvram)."""
    return bool(getattr(p.sd_model, "lowvram", False))


def has_blocks(unet: Any) -> bool:
    """Whether there is any transformer block of a kind that can be changed (SD3 has none)."""
    return any(named(module, "BasicTransformerBlock") for module in unet.modules())
