"""Our own twin of SGM's SDXL U-Net, for machines without the WebUI: its class names, module paths, signatures and semantics.

Written from a description of the interfaces (what is called how, with which keywords, in which order), not from the code. Real sizes are
options: `unet(depths=(0, 2, 10))` has SDXL's seventy blocks at SDXL's places. Odd grids work, as in the WebUI, which fits what comes up to
what is joined to it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class GEGLU(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x):
        value, gate = self.proj(x).tensor_split(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Dropout(0.0), nn.Linear(4 * width, width))

    def forward(self, x):
        return self.net(x)


class CrossAttention(nn.Module):
    """``additional_tokens`` [B, n, C] go before the queries' tokens and are taken off the result; with
    ``n_times_crossframe_attn_in_self`` = n, every n rows share the keys and values of the first of them.
    """

    def __init__(self, query_dim: int, context_dim: int | None = None, heads: int = 8, dim_head: int = 64, backend=None) -> None:
        super().__init__()
        inner = heads * dim_head
        context_dim = query_dim if context_dim is None else context_dim
        self.heads, self.scale, self.backend = heads, dim_head**-0.5, backend
        self.to_q = nn.Linear(query_dim, inner, bias=False)
        self.to_k = nn.Linear(context_dim, inner, bias=False)
        self.to_v = nn.Linear(context_dim, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, query_dim), nn.Dropout(0.0))

    def forward(self, x, context=None, mask=None, additional_tokens=None, n_times_crossframe_attn_in_self=0):
        extra = 0 if additional_tokens is None else additional_tokens.shape[1]
        if extra:
            x = torch.cat((additional_tokens, x), dim=1)
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        if n_times_crossframe_attn_in_self:
            n = n_times_crossframe_attn_in_self
            k, v = (t[::n].repeat_interleave(n, dim=0) for t in (k, v))
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out(out.transpose(1, 2).flatten(2)[:, extra:])


class BasicTransformerBlock(nn.Module):
    def __init__(
        self, dim: int, n_heads: int, d_head: int, context_dim: int, checkpoint: bool = True, disable_self_attn: bool = False
    ) -> None:
        super().__init__()
        self.disable_self_attn, self.checkpoint = disable_self_attn, checkpoint
        self.attn1 = CrossAttention(dim, context_dim if disable_self_attn else None, n_heads, d_head)
        self.ff = FeedForward(dim)
        self.attn2 = CrossAttention(dim, context_dim, n_heads, d_head)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))

    def forward(self, x, context=None, additional_tokens=None, n_times_crossframe_attn_in_self=0):
        # What is more than x and context is accepted and goes no further, as in SGM.
        if self.checkpoint:
            return checkpoint(self._forward, x, context, use_reentrant=False)
        return self._forward(x, context)

    def _forward(self, x, context=None, additional_tokens=None, n_times_crossframe_attn_in_self=0):
        own = self.disable_self_attn
        x = x + self.attn1(
            self.norm1(x),
            context=context if own else None,
            additional_tokens=additional_tokens,
            n_times_crossframe_attn_in_self=0 if own else n_times_crossframe_attn_in_self,
        )
        x = x + self.attn2(self.norm2(x), context=context, additional_tokens=additional_tokens)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(
        self, in_channels: int, n_heads: int, d_head: int, depth: int, context_dim: int, use_linear: bool, use_checkpoint: bool
    ) -> None:
        super().__init__()
        inner = n_heads * d_head
        self.use_linear = use_linear
        self.norm = nn.GroupNorm(min(32, in_channels), in_channels, eps=1e-6)
        self.proj_in = nn.Linear(in_channels, inner) if use_linear else nn.Conv2d(in_channels, inner, 1)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(inner, n_heads, d_head, context_dim, checkpoint=use_checkpoint) for _ in range(depth)
        )
        self.proj_out = nn.Linear(inner, in_channels) if use_linear else nn.Conv2d(inner, in_channels, 1)

    def forward(self, x, context=None):
        """x [B, C, h, w]. context: one text for all blocks, or a list with one for each."""
        contexts = context if isinstance(context, list) else [context]
        h, w = x.shape[2:]
        y = self.norm(x)
        y = self.proj_in(_tokens(y)) if self.use_linear else _tokens(self.proj_in(y))
        for index, block in enumerate(self.transformer_blocks):
            y = block(y, context=contexts[index if len(contexts) > 1 else 0])
        y = _grid(self.proj_out(y), h, w) if self.use_linear else self.proj_out(_grid(y, h, w))
        return x + y


class ResBlock(nn.Module):
    def __init__(self, channels: int, emb_channels: int, out_channels: int) -> None:
        super().__init__()
        self.updown = False
        self.in_layers = nn.Sequential(
            nn.GroupNorm(min(32, channels), channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(min(32, out_channels), out_channels), nn.SiLU(), nn.Conv2d(out_channels, out_channels, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x, emb):
        y = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(y)


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class TimestepEmbedSequential(nn.Sequential):
    """Its layers are given what they take: residual blocks the time embedding, transformers the text."""

    def forward(self, x, emb, context=None):
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x


class UNetModel(nn.Module):
    """SGM's constructor, as far as SDXL needs it. transformer_depth: blocks of each level's transformers, by level; attention sits at the
    levels whose factor is in attention_resolutions.
    """

    def __init__(
        self,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: list[int],
        channel_mult: tuple[int, ...],
        transformer_depth: list[int],
        context_dim: int,
        adm_in_channels: int,
        num_head_channels: int = 64,
        use_spatial_transformer: bool = True,
        num_classes: str = "sequential",
        use_linear_in_transformer: bool = True,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        emb = 4 * model_channels
        self.model_channels, self.num_classes = model_channels, num_classes
        self.time_embed = nn.Sequential(nn.Linear(model_channels, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label_emb = nn.Sequential(nn.Sequential(nn.Linear(adm_in_channels, emb), nn.SiLU(), nn.Linear(emb, emb)))

        def transformer(channels: int, level: int) -> SpatialTransformer:
            heads, depth = channels // num_head_channels, transformer_depth[level]
            return SpatialTransformer(channels, heads, num_head_channels, depth, context_dim, use_linear_in_transformer, use_checkpoint)

        def stage(channels: int, out: int, level: int) -> list[nn.Module]:
            attends = 2**level in attention_resolutions
            return [ResBlock(channels, emb, out), *([transformer(out, level)] if attends else [])]

        widths = [model_channels * multiple for multiple in channel_mult]
        deepest = len(widths) - 1
        channels, skips = model_channels, [model_channels]
        self.input_blocks = nn.ModuleList([TimestepEmbedSequential(nn.Conv2d(in_channels, model_channels, 3, padding=1))])
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                self.input_blocks.append(TimestepEmbedSequential(*stage(channels, width, level)))
                channels = width
                skips.append(channels)
            if level < deepest:
                self.input_blocks.append(TimestepEmbedSequential(Downsample(channels)))
                skips.append(channels)
        self.middle_block = TimestepEmbedSequential(
            ResBlock(channels, emb, channels), transformer(channels, deepest), ResBlock(channels, emb, channels)
        )
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for index in range(num_res_blocks + 1):
                layers = stage(channels + skips.pop(), widths[level], level)
                channels = widths[level]
                if level and index == num_res_blocks:
                    layers.append(Upsample(channels))
                self.output_blocks.append(TimestepEmbedSequential(*layers))
        self.out = nn.Sequential(nn.GroupNorm(min(32, channels), channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))

    def forward(self, x, timesteps=None, context=None, y=None, **kwargs):
        """x [B, 4, h, w], timesteps [B], context [B, tokens, width], y [B, adm_in_channels]."""
        emb = self.time_embed(_sinusoids(timesteps, self.model_channels).to(x.dtype)) + self.label_emb(y)
        kept = []
        for block in self.input_blocks:
            x = block(x, emb, context)
            kept.append(x)
        x = self.middle_block(x, emb, context)
        for block in self.output_blocks:
            skip = kept.pop()
            if x.shape[2:] != skip.shape[2:]:
                x = F.interpolate(x, skip.shape[2:], mode="nearest")
            x = block(torch.cat((x, skip), dim=1), emb, context)
        return self.out(x)


def _tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2).contiguous()


def _grid(tokens: torch.Tensor, h: int, w: int) -> torch.Tensor:
    return tokens.transpose(1, 2).unflatten(2, (h, w)).contiguous()


def _sinusoids(timesteps: torch.Tensor, width: int) -> torch.Tensor:
    rates = torch.exp(torch.arange(width // 2, device=timesteps.device) * (-math.log(10000.0) / (width // 2)))
    angles = timesteps.float()[:, None] * rates
    return torch.cat((angles.cos(), angles.sin()), dim=1)
