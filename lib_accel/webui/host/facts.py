"""What the extension reads of its host, asked for at the time of use: versions differ and models come and go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modules import devices, shared

from ...backends import BACKENDS, backend_for
from ...core.forge_models import wrapper_of
from ...core.model_words import UNET
from ...core.reasons import Reason
from ...core.sites import UnsupportedModelError, find_unet, named
from ...engine.contract import HostTraits
from ...engine.subject import COMPILED
from ...engine.thresholds import Thresholds, thresholds_for
from ...settings.few_step_models import few_step_sign, loras_in
from ...settings.model_families import TRANSFORMER, family_of
from ...settings.presets import PRESETS
from . import traits as host_traits
from .comments import without_comments
from .family import family

# What Forge Neo's built-in extension leaves where it compiles the U-Net for the length of every call: its settings, which are gone when
# they were changed, and the function that its own took the place of.
COMPILES = ("_torch_compile_config", "_orig_apply_model")
# States of the Forge family's memory in which little of the GPU's is to be used.
SPARING = ("NO_VRAM", "LOW_VRAM")
TOKEN_MERGING = Reason.of("token_merging", "the WebUI's own token merging is on (Settings, Optimizations)")
_WHERE = "the option sd_unet runs the U-Net elsewhere (TensorRT or the like), where no layer can be changed"
ELSEWHERE = Reason.of("elsewhere", "off: {why}", why=_WHERE)


def unet_of(p: Any) -> Any:
    """The U-Net that a job samples with, now. The checkpoint may change between passes and within one."""
    return find_unet(p.sd_model)


def checkpoint_of(p: Any) -> tuple[Any, Any]:
    """What tells one checkpoint from another in the same model object: its info, and the refiner that the job was switched to.

    Forge Neo may load a refiner's weights into the same module and say so in PNG info alone.
    """
    told = getattr(p, "extra_generation_params", None) or {}
    return getattr(p.sd_model, "sd_checkpoint_info", None), told.get("Refiner") if family().forge else None


def scale_of(p: Any) -> float | None:
    """The guidance scale of the pass at hand; the Forge family has one of its own for the hires pass."""
    if family().forge and getattr(p, "is_hr_pass", False):
        return getattr(p, "hr_cfg", None)
    return getattr(p, "cfg_scale", None)


def droppable_scale(p: Any) -> float | None:
    """The scale by which it is decided that guidance is ours to drop in the whole pass; the Forge family drops it at 1 by itself."""
    return None if family().forge else scale_of(p)


def runs_both(scale: float | None) -> bool:
    """Whether the host itself runs the negative prompt at the guidance scale ``scale``."""
    return not (family().forge and scale == 1)


def checkpoint_name(p: Any = None) -> str:
    """The name of the checkpoint that ``p`` samples with now; without ``p`` of the one that is loaded. Empty when nobody knows."""
    model = p.sd_model if p is not None else loaded_model()
    info = getattr(model, "sd_checkpoint_info", None)
    return " ".join(str(getattr(info, field, "") or "") for field in ("title", "model_name"))


def why_few_steps(p: Any) -> str | None:
    """Why the job ``p`` is taken for one of a few-step model (a clause), or None."""
    prompts = getattr(p, "all_prompts", None) or p.prompt
    prompts = [prompts] if isinstance(prompts, str) else prompts
    loras = {name for prompt in prompts or () for name in loras_in(without_comments(str(prompt)))}
    steps = None if takes_steps_as_it_likes(p) else p.steps
    is_transformer = shape_of(p.sd_model) == TRANSFORMER
    return few_step_sign(steps, [checkpoint_name(p)], str(p.sampler_name or ""), p.cfg_scale, sorted(loras), is_transformer)


def shape_of(model: Any) -> str:
    """The family whose shape the U-Net or transformer of ``model`` has; ``sd1`` where there is none, or nobody knows."""
    try:
        return family_of(find_unet(model))
    except (UnsupportedModelError, AttributeError):
        return "sd1"


def noun_of(p: Any) -> str:
    """What the model of ``p`` is called in words."""
    try:
        return backend_for(find_unet(p.sd_model)).noun
    except (UnsupportedModelError, AttributeError):
        return UNET


def why_left_alone(p: Any, settings: Any) -> Reason | None:
    """Why a preset does nothing to the model of ``p`` (a clause), or None.

    Of diffusion transformers whole steps alone can be left out, and of few steps each matters. Who sets knobs by hand asks for it.
    """
    if settings["preset"].lower() not in PRESETS or shape_of(p.sd_model) != TRANSFORMER:
        return None
    sign = why_few_steps(p)
    return sign and Reason.of("few_step_model", "off: a model that is run in few steps ({sign})", sign=sign)


def takes_steps_as_it_likes(p: Any) -> bool:
    """Whether the sampler of the pass at hand does not go by the number of steps."""
    return is_adaptive(sampler_name(p))


def is_adaptive(sampler: str) -> bool:
    """Whether the sampler of that name does not go by the number of steps: DPM adaptive makes them as long as it can."""
    return "adaptive" in sampler.lower()


def sampler_name(p: Any) -> str:
    """The sampler of the pass at hand, as the host lists it."""
    name = (getattr(p, "hr_sampler_name", None) if getattr(p, "is_hr_pass", False) else None) or getattr(p, "sampler_name", None)
    return str(name or "")


def steps_of_schedule(p: Any, from_picture: bool) -> int:
    """How many steps the schedule of the pass at hand has. from_picture: it begins with a picture, so late in that schedule."""
    if not from_picture:
        return p.steps
    from modules import sd_samplers_common

    asked = (getattr(p, "hr_second_pass_steps", 0) or p.steps) if getattr(p, "is_hr_pass", False) else None
    return sd_samplers_common.setup_img2img_steps(p, asked)[0]


def size_of(latents: Any) -> tuple[int, int]:
    """(width, height) in pixels of the pictures of ``latents`` [B, channels, ..., h, w].

    The host knows how much smaller latents are: Forge Neo has models with 16 pixels to one (Flux.2), and one that draws pixels, which
    have three channels.
    """
    from modules import processing

    pixels = 1 if latents.shape[1] == 3 else getattr(processing, "opt_f", 8)
    return pixels * latents.shape[-1], pixels * latents.shape[-2]


def loaded_model() -> Any:
    """The model that is loaded; None without one. Never loads a checkpoint."""
    from modules import sd_models

    model = getattr(getattr(sd_models, "model_data", None), "sd_model", None)
    # What stands for a model in the Forge family before the first job.
    return None if type(model).__name__ == "FakeInitialModel" else model


def load_model() -> None:
    """See to it that the checkpoint that the page shows is loaded: the Forge family loads with the first job that needs it."""
    from modules import sd_models

    reload = getattr(sd_models, "forge_model_reload", None)
    if reload is not None:
        reload()


def loaded_unet() -> Any:
    """The U-Net of the model that is loaded; None without one. Never loads a checkpoint."""
    return getattr(wrapper_of(loaded_model()), "diffusion_model", None)


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


def traits() -> HostTraits:
    return host_traits.traits()


def table() -> tuple[Thresholds, str | None]:
    """This machine's table of thresholds, and what is to be told about it."""
    return thresholds_for(device(), traits().fused_kernel())


def obstacle(p: Any) -> str | None:
    """Why nothing of ours may act on the model of ``p`` now (a clause), or None."""
    from modules import sd_unet

    if getattr(sd_unet, "current_unet", None) is not None:
        return ELSEWHERE
    if family().forge and any(getattr(wrapper_of(p.sd_model), name, None) is not None for name in COMPILES):
        return COMPILED
    return None


def merges_tokens(p: Any) -> bool:
    """Whether the host's own token merging is at work on the model of ``p``: it changes the layers that methods on tokens change."""
    if family().forge:
        return (p.get_token_merging_ratio(for_hr=bool(getattr(p, "is_hr_pass", False))) or 0) > 0
    return (getattr(p.sd_model, "applied_token_merged_ratio", 0) or 0) > 0


def will_merge_tokens(of_picture: bool, hires: bool) -> bool:
    """The same of a pass that has not begun, by the host's options, which a job may override. of_picture: it is img2img's."""
    own = "token_merging_ratio_img2img" if of_picture else "token_merging_ratio_hr" if hires else "token_merging_ratio"
    return any((option(name, 0) or 0) > 0 for name in (own, "token_merging_ratio"))


def spares_memory(p: Any) -> bool:
    """Whether the host moves the model in parts between main memory and the GPU (medvram, lowvram)."""
    if not family().forge:
        return bool(getattr(p.sd_model, "lowvram", False))
    if family().comfy:
        from ldm_patched.modules import model_management as memory
    else:
        from backend import memory_management as memory
    return getattr(getattr(memory, "vram_state", None), "name", "") in SPARING


def has_layers(unet: Any) -> bool:
    """Whether there is any transformer block of a kind whose layers can be changed (SD3 and Flux have none)."""
    return any(named(module, "BasicTransformerBlock") for module in unet.modules())


def has_blocks(unet: Any) -> bool:
    """Whether there is any such block, or whole calls can be left out."""
    return has_layers(unet) or any(backend.whole_calls_only and backend.matches(unet) for backend in BACKENDS)
