"""diffusers' UNet2DConditionModel (SD1.x, SD2.x, SDXL). diffusers itself is never imported."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..core.reasons import Reason
from ..core.sites import Site, named, sites_in
from ..core.stages import Stage, StageList
from . import known, row_safety
from .base import Backend

# Blocks whose stages are known: pairs of ResBlocks and transformers in a row, each with one skip connection.
KNOWN_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D")


class DiffusersBackend(Backend):
    name = "diffusers"
    looked_for = "a diffusers U-Net (down_blocks and up_blocks with Transformer2DModel attentions)"
    sample_name = "sample"
    timestep_name = "timestep"
    tokens_name = "hidden_states"
    context_name = "encoder_hidden_states"
    mask_name = "attention_mask"
    attention_arguments = ("hidden_states", "encoder_hidden_states", "attention_mask")
    # Every attention layer of a U-Net gets them. Self-attention ignores masks for IP-Adapters; cross-attention lays them on its tokens.
    harmless = {"attn1": frozenset({"scale", "ip_adapter_masks", "ip_hidden_states"}), "attn2": frozenset({"scale"})}

    def matches(self, unet: nn.Module) -> bool:
        stages = all(hasattr(unet, stage) for stage in ("down_blocks", "up_blocks"))
        return stages and any(named(m, "Transformer2DModel") and hasattr(m, "transformer_blocks") for m in unet.modules())

    def find_sites(self, unet: nn.Module) -> list[Site]:
        sites, level = [], 0
        for index, stage in enumerate(unet.down_blocks):
            sites += sites_in(stage, f"down_blocks.{index}", level, "down", "Transformer2DModel")
            # ControlNet-XS has one for the U-Net's own part.
            level += any(getattr(stage, name, None) for name in ("downsamplers", "base_downsamplers"))
        if getattr(unet, "mid_block", None) is not None:
            sites += sites_in(unet.mid_block, "mid_block", level, "mid", "Transformer2DModel")
        for index, stage in enumerate(unet.up_blocks):
            sites += sites_in(stage, f"up_blocks.{index}", level, "up", "Transformer2DModel")
            level -= bool(getattr(stage, "upsamplers", None))
        return sites

    def find_stages(self, unet: nn.Module) -> tuple[Stage, ...]:
        blocks = (*unet.down_blocks, *unet.up_blocks)
        if not all(type(block).__name__ in KNOWN_BLOCKS for block in blocks) or getattr(unet, "mid_block", None) is None:
            return ()
        stages, level = StageList(), 0
        stages.add("down", level, "input", {"conv_in": unet.conv_in})
        for index, block in enumerate(unet.down_blocks):
            path = f"down_blocks.{index}"
            for pair in _pairs(block, path):
                stages.add("down", level, "block", pair)
            for at, sampler in enumerate(block.downsamplers or ()):
                stages.add("down", level, "downsampler", {f"{path}.downsamplers.{at}": sampler})
                level += 1
        stages.add("mid", level, "middle", {"mid_block": unet.mid_block})
        for index, block in enumerate(unet.up_blocks):
            path = f"up_blocks.{index}"
            samplers = {f"{path}.upsamplers.{at}": sampler for at, sampler in enumerate(block.upsamplers or ())}
            pairs = _pairs(block, path)
            for pair in pairs:
                stages.add("up", level, "block", pair | samplers if pair is pairs[-1] else pair)
            level -= len(samplers)
        return stages.done()

    def together(self, unet: nn.Module, forward: Any, args: tuple, kwargs: dict) -> str | None:
        joined = ("down_block_additional_residuals", "mid_block_additional_residual", "down_intrablock_additional_residuals")
        if any(kwargs.get(name) is not None for name in joined) or len(args) > 3:
            return Reason.of("residuals", "a ControlNet or T2I-Adapter adds to what stages return")
        return super().together(unet, forward, args, kwargs)

    def module_output(self, module: nn.Module, kwargs: dict, out: torch.Tensor) -> Any:
        if not named(module, "Transformer2DModel"):
            return out
        return (out,) if kwargs.get("return_dict") is False else _output_class(module)(sample=out)

    def output_of(self, unet: nn.Module, args: tuple, kwargs: dict, prediction: torch.Tensor) -> Any:
        forward = inspect.unwrap(type(unet).forward)
        given = inspect.signature(forward).bind_partial(unet, *args, **kwargs).arguments
        if not given.get("return_dict", True):
            return (prediction,)
        return _output_class(unet)(sample=prediction)

    def texts_of(self, unet: nn.Module, args: tuple, kwargs: dict) -> tuple[torch.Tensor, ...]:
        return row_safety.texts_of(unet, args, kwargs)

    def rows_obstacle(self, unet: nn.Module, args: tuple, kwargs: dict, count: int, by_host: bool) -> str | None:
        return row_safety.obstacle(unet, args, kwargs, count, by_host)

    def cut(self, unet: nn.Module, args: tuple, kwargs: dict, count: int, keep: Sequence[int]) -> tuple[tuple, dict]:
        return row_safety.cut(unet, args, kwargs, count, keep)

    def upcasts(self, attn: nn.Module) -> bool:
        return bool(getattr(attn, "upcast_attention", False))

    def obstacle(self, site: Site, part: str, ability: str) -> str | None:
        layer, block = site.part(part), site.block
        if layer is None or block is None:
            return None
        forward = known.own_forward(layer) or type(layer).forward
        reason = (
            known.processor_obstacle(layer, ability)
            or known.hook_obstacle(layer, part)
            or known.forward_obstacle(forward, ability, known.DIFFUSERS_FORWARDS, part)
        )
        if reason is None and ability == known.SERVED:
            forward = known.own_forward(block) or type(block).forward
            reason = known.forward_obstacle(forward, ability, known.DIFFUSERS_BLOCKS, "the block")
        if reason is None and ability in (known.TOKENS, known.KEYS):
            norm = next((n for n in ("spatial_norm", "group_norm") if getattr(layer, n, None) is not None), None)
            reason = known.layer_has(norm) if norm else None
        return reason or (self.plain_obstacle(layer) if ability == known.PLAIN else None)

    def plain_obstacle(self, attn: nn.Module) -> str | None:
        for name, hook in known.hooks_on(attn):
            # It may bring in the weights for the layer's own forward alone.
            return known.hook_on(name, hook, "the attention layer itself")
        for name in ("spatial_norm", "group_norm", "norm_q", "norm_k"):
            if getattr(attn, name, None) is not None:
                return known.layer_has(name)
        if getattr(attn, "residual_connection", False) or getattr(attn, "rescale_output_factor", 1.0) != 1.0:
            return Reason.of("rescales", "the attention layer rescales or adds its input")
        return super().plain_obstacle(attn)


def _pairs(block: nn.Module, path: str) -> list[dict[str, nn.Module]]:
    """The ResBlocks of ``block`` with their transformers, by path."""
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    pairs = []
    for at, (resnet, attention) in enumerate(zip(block.resnets, attentions)):
        pairs.append({f"{path}.resnets.{at}": resnet} | ({} if attention is None else {f"{path}.attentions.{at}": attention}))
    return pairs


def _output_class(module: nn.Module) -> Any:
    """The class that the code of ``module`` returns."""
    names = inspect.unwrap(type(module).forward).__globals__
    return names.get("UNet2DConditionOutput") or names["Transformer2DModelOutput"]
