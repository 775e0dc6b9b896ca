"""diffusers' UNet2DConditionModel (SD1.x, SD2.x, SDXL). diffusers itself is never imported."""

from __future__ import annotations

from torch import nn

from ..core.sites import Site, named, sites_in
from .base import Backend

# Processors that compute softmax(q k^T) v and nothing else: what agent attention may stand in for.
PLAIN_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor", "SlicedAttnProcessor", "AttnProcessorNPU")


class DiffusersBackend(Backend):
    name = "diffusers"
    looked_for = "a diffusers U-Net (down_blocks and up_blocks with Transformer2DModel attentions)"
    sample_name = "sample"
    timestep_name = "timestep"
    tokens_name = "hidden_states"
    context_name = "encoder_hidden_states"
    mask_name = "attention_mask"
    attention_arguments = ("hidden_states", "encoder_hidden_states", "attention_mask")
    # Arguments that every attention layer of a U-Net gets and that plain self-attention ignores.
    harmless = frozenset({"scale", "ip_adapter_masks", "ip_hidden_states"})

    def matches(self, unet: nn.Module) -> bool:
        stages = all(hasattr(unet, stage) for stage in ("down_blocks", "up_blocks"))
        return stages and any(named(m, "Transformer2DModel") and hasattr(m, "transformer_blocks") for m in unet.modules())

    def find_sites(self, unet: nn.Module) -> list[Site]:
        sites, level = [], 0
        for index, stage in enumerate(unet.down_blocks):
            sites += sites_in(stage, f"down_blocks.{index}", level, "down", "Transformer2DModel")
            level += bool(getattr(stage, "downsamplers", None))
        if getattr(unet, "mid_block", None) is not None:
            sites += sites_in(unet.mid_block, "mid_block", level, "mid", "Transformer2DModel")
        for index, stage in enumerate(unet.up_blocks):
            sites += sites_in(stage, f"up_blocks.{index}", level, "up", "Transformer2DModel")
            level -= bool(getattr(stage, "upsamplers", None))
        return sites

    def upcasts(self, attn: nn.Module) -> bool:
        return bool(getattr(attn, "upcast_attention", False))

    def agent_obstacle(self, attn: nn.Module) -> str | None:
        processor = type(getattr(attn, "processor", None)).__name__
        if processor not in PLAIN_PROCESSORS:
            return f"attention processor {processor}"
        if hasattr(attn, "_hf_hook") or hasattr(attn, "_diffusers_hook"):
            return "an offloading hook sits on the attention layer itself"
        for name in ("spatial_norm", "group_norm", "norm_q", "norm_k"):
            if getattr(attn, name, None) is not None:
                return f"the attention layer has {name}"
        if getattr(attn, "residual_connection", False) or getattr(attn, "rescale_output_factor", 1.0) != 1.0:
            return "the attention layer rescales or adds its input"
        return super().agent_obstacle(attn)
