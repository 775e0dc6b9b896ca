"""What the extension reads of its host, asked for at the time of use: versions differ and models come and go."""

from __future__ import annotations

from typing import Any

from modules import devices, shared

from ..sites import find_unet, named
from .traits import WebuiTraits

TOKEN_MERGING = "off: the WebUI's own token merging is on (Settings, Optimizations)"


def unet_of(p: Any) -> Any:
    """The U-Net that a job samples with, now. The checkpoint may change between passes and within one."""
    return find_unet(p.sd_model)


def checkpoint_of(p: Any) -> Any:
    """What tells one checkpoint from another in the same model object."""
    return getattr(p.sd_model, "sd_checkpoint_info", None)


def loaded_unet() -> Any:
    """The U-Net of the model that is loaded; None without one. Never loads a checkpoint."""
    from modules import sd_models

    model = getattr(getattr(sd_models, "model_data", None), "sd_model", None)
    return getattr(getattr(model, "model", None), "diffusion_model", None)


def option(name: str, default: Any) -> Any:
    """An option of the host; ``default`` where this version has none or has not listed it yet."""
    return getattr(shared.opts, name, default)


def device() -> Any:
    return devices.device


def traits() -> WebuiTraits:
    return WebuiTraits()


def obstacle(p: Any) -> str | None:
    """Why nothing of ours may act on the model of ``p`` now (a clause), or None."""
    from modules import sd_unet

    if getattr(sd_unet, "current_unet", None) is not None:
        return "off: the option sd_unet runs the U-Net elsewhere (TensorRT or the like), where no layer can be changed"
    model = p.sd_model
    if (getattr(model, "applied_token_merged_ratio", 0) or 0) > 0:
        return TOKEN_MERGING
    return None


def spares_memory(p: Any) -> bool:
    """Whether the host moves the model in parts between main memory and the GPU (medvram, lowvram)."""
    return bool(getattr(p.sd_model, "lowvram", False))


def has_blocks(unet: Any) -> bool:
    """Whether there is any transformer block of a kind that can be changed (SD3 has none)."""
    return any(named(module, "BasicTransformerBlock") for module in unet.modules())
