"""What the host does inside its attention layers: hypernetworks, up-casting, the kernel that the user chose."""

from __future__ import annotations

import torch
from modules import sd_hijack, shared
from modules.hypernetworks import hypernetwork

from ...core.sites import Site
from ...methods import HostTraits

# Kernels that never hold a whole attention map, by the name that the host lists them under.
FUSED = ("xformers", "sdp", "sdp-no-mem")
# Where the host's hypertile keeps its state, on the attention layers that it splits into tiles.
HYPERTILE = "__webui_hypertile_params"


class WebuiTraits(HostTraits):
    """Read at every call: hypernetworks and options change between jobs."""

    def kv_inputs(self, attn: torch.nn.Module, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return hypernetwork.apply_hypernetworks(shared.loaded_hypernetworks, context)

    def upcast(self, attn: torch.nn.Module) -> bool:
        return bool(getattr(shared.opts, "upcast_attn", False))

    def obstacle(self, site: Site) -> str | None:
        params = getattr(site.part("attn1"), HYPERTILE, None)
        return "hypertile is at work there" if getattr(params, "enabled", False) else None

    def fused_kernel(self) -> bool:
        return getattr(getattr(sd_hijack, "current_optimizer", None), "name", None) in FUSED
