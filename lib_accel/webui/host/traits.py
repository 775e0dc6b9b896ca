"""What the host does inside its attention layers: hypernetworks, up-casting, the kernel that the user chose."""

from __future__ import annotations

import torch
from modules import shared

from ...core.reasons import Reason
from ...core.sites import Site
from ...methods import HostTraits
from .family import family

# Kernels that never hold a whole attention map, by the name that the host lists them under.
FUSED = ("xformers", "sdp", "sdp-no-mem")
# Those of the Forge family that do, by their functions' names.
FORGE_UNFUSED = ("attention_basic", "attention_split", "attention_sub_quad")
# Where the host's hypertile keeps its state, on the attention layers that it splits into tiles.
HYPERTILE = "__webui_hypertile_params"


class WebuiTraits(HostTraits):
    """AUTOMATIC1111's. Read at every call: hypernetworks and options change between jobs."""

    def kv_inputs(self, attn: torch.nn.Module, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from modules.hypernetworks import hypernetwork

        return hypernetwork.apply_hypernetworks(shared.loaded_hypernetworks, context)

    def upcast(self, attn: torch.nn.Module) -> bool:
        return bool(getattr(shared.opts, "upcast_attn", False))

    def obstacle(self, site: Site) -> str | None:
        params = getattr(site.part("attn1"), HYPERTILE, None)
        return Reason.of("hypertile", "hypertile is active there") if getattr(params, "enabled", False) else None

    def fused_kernel(self) -> bool:
        from modules import sd_hijack

        return getattr(getattr(sd_hijack, "current_optimizer", None), "name", None) in FUSED


class ForgeTraits(HostTraits):
    """The Forge family's: no hypernetworks in its layers, and patches are told with every call."""

    def fused_kernel(self) -> bool:
        if family().comfy:
            from ldm_patched.ldm.modules.attention import optimized_attention as kernel
        else:
            from backend.attention import attention_function as kernel
        return getattr(kernel, "__name__", "") not in FORGE_UNFUSED


def traits() -> HostTraits:
    return ForgeTraits() if family().forge else WebuiTraits()
