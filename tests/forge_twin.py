"""Our own twin of the Forge family's SD U-Net: its class names, module paths, signatures and semantics, `sgm_twin` where they agree.

Written from a description of the interfaces (what is called how, with which keywords, in which order), not from the code. Attention takes a
``value`` of its own and ``transformer_options``; blocks add to their tokens in place, and let the patches of extensions in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sgm_twin import Downsample, FeedForward, ResBlock, Upsample, _grid, _sinusoids, _tokens
from torch import nn


class CrossAttention(nn.Module):
    def __init__(self, query_dim: int, context_dim: int | None, heads: int, dim_head: int) -> None:
        super().__init__()
        inner = heads * dim_head
        context_dim = query_dim if context_dim is None else context_dim
        self.heads, self.dim_head = heads, dim_head
        self.to_q = nn.Linear(query_dim, inner, bias=False)
        self.to_k = nn.Linear(context_dim, inner, bias=False)
        self.to_v = nn.Linear(context_dim, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, query_dim), nn.Dropout(0.0))

    def forward(self, x, context=None, value=None, mask=None, transformer_options=None):
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context if value is None else value)
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out(out.transpose(1, 2).flatten(2))


class BasicTransformerBlock(nn.Module):
    def __init__(self, dim: int, n_heads: int, d_head: int, context_dim: int) -> None:
        super().__init__()
        self.attn1 = CrossAttention(dim, None, n_heads, d_head)
        self.ff = FeedForward(dim)
        self.attn2 = CrossAttention(dim, context_dim, n_heads, d_head)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))

    def forward(self, x, context=None, transformer_options=None):
        transformer_options = transformer_options or {}
        patches, replaced = transformer_options.get("patches", {}), transformer_options.get("patches_replace", {})
        extra = {name: value for name, value in transformer_options.items() if name not in ("patches", "patches_replace")}
        x += self._attend("attn1", self.norm1(x), None, extra, patches, replaced)
        x += self._attend("attn2", self.norm2(x), context, extra, patches, replaced)
        kept = x
        x = self.ff(self.norm3(x))
        x += kept
        return x

    def _attend(self, part, n, context, extra, patches, replaced):
        layer, value = getattr(self, part), None
        for patch in patches.get(f"{part}_patch", ()):
            context = n if context is None else context
            n, context, value = patch(n, context, context if value is None else value, extra)
        place = extra.get("block")
        by_place = replaced.get(part, {})
        chosen = next((p for p in ((*(place or ()), extra.get("block_index")), place) if p in by_place), None)
        if chosen is None:
            n = layer(n, context=context, value=value, transformer_options=extra)
        else:
            context = n if context is None else context
            q, k, v = layer.to_q(n), layer.to_k(context), layer.to_v(context if value is None else value)
            n = layer.to_out(by_place[chosen](q, k, v, extra))
        for patch in patches.get(f"{part}_output_patch", ()):
            n = patch(n, extra)
        return n


class SpatialTransformer(nn.Module):
    def __init__(self, in_channels: int, n_heads: int, d_head: int, depth: int, context_dim: int, use_linear: bool) -> None:
        super().__init__()
        inner = n_heads * d_head
        self.use_linear = use_linear
        self.norm = nn.GroupNorm(min(32, in_channels), in_channels, eps=1e-6)
        self.proj_in = nn.Linear(in_channels, inner) if use_linear else nn.Conv2d(in_channels, inner, 1)
        self.transformer_blocks = nn.ModuleList(BasicTransformerBlock(inner, n_heads, d_head, context_dim) for _ in range(depth))
        self.proj_out = nn.Linear(inner, in_channels) if use_linear else nn.Conv2d(inner, in_channels, 1)

    def forward(self, x, context=None, transformer_options=None):
        h, w = x.shape[2:]
        y = self.norm(x)
        y = self.proj_in(_tokens(y)) if self.use_linear else _tokens(self.proj_in(y))
        for index, block in enumerate(self.transformer_blocks):
            if transformer_options is not None:
                transformer_options["block_index"] = index
            y = block(y, context=context, transformer_options=transformer_options)
        y = _grid(self.proj_out(y), h, w) if self.use_linear else self.proj_out(_grid(y, h, w))
        return y + x


class TimestepEmbedSequential(nn.Sequential):
    def forward(self, x, emb, context=None, transformer_options=None, output_shape=None):
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context, transformer_options)
            elif isinstance(layer, Upsample) and output_shape is not None:
                x = layer.conv(F.interpolate(x, output_shape[2:], mode="nearest"))
            else:
                x = layer(x)
        return x


class IntegratedUNet2DConditionModel(nn.Module):
    """transformer_depth: blocks of each level's transformers, by level; 0 where there are none (one in the middle all the same).

    adm_in_channels: 0 without a vector.
    """

    def __init__(
        self,
        in_channels: int = 4,
        model_channels: int = 32,
        out_channels: int = 4,
        channel_mult: tuple[int, ...] = (1, 1, 1),
        transformer_depth: tuple[int, ...] = (1, 1, 0),
        num_head_channels: int = 16,
        context_dim: int = 16,
        adm_in_channels: int = 0,
        use_linear_in_transformer: bool = False,
    ) -> None:
        super().__init__()
        emb = 4 * model_channels
        self.model_channels, self.num_classes = model_channels, "sequential" if adm_in_channels else None
        self.time_embed = nn.Sequential(nn.Linear(model_channels, emb), nn.SiLU(), nn.Linear(emb, emb))
        if adm_in_channels:
            self.label_emb = nn.Sequential(nn.Sequential(nn.Linear(adm_in_channels, emb), nn.SiLU(), nn.Linear(emb, emb)))

        def transformer(channels: int, depth: int) -> SpatialTransformer:
            heads = channels // num_head_channels
            return SpatialTransformer(channels, heads, num_head_channels, depth, context_dim, use_linear_in_transformer)

        def stage(channels: int, out: int, level: int) -> list[nn.Module]:
            depth = transformer_depth[level]
            return [ResBlock(channels, emb, out), *([transformer(out, depth)] if depth else [])]

        widths = [model_channels * multiple for multiple in channel_mult]
        channels, skips = model_channels, [model_channels]
        self.input_blocks = nn.ModuleList([TimestepEmbedSequential(nn.Conv2d(in_channels, model_channels, 3, padding=1))])
        for level, width in enumerate(widths):
            self.input_blocks.append(TimestepEmbedSequential(*stage(channels, width, level)))
            channels = width
            skips.append(channels)
            if level < len(widths) - 1:
                self.input_blocks.append(TimestepEmbedSequential(Downsample(channels)))
                skips.append(channels)
        middle = [ResBlock(channels, emb, channels), transformer(channels, transformer_depth[-1] or 1), ResBlock(channels, emb, channels)]
        self.middle_block = TimestepEmbedSequential(*middle)
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for index in range(2):
                layers = stage(channels + skips.pop(), widths[level], level)
                channels = widths[level]
                if level and index:
                    layers.append(Upsample(channels))
                self.output_blocks.append(TimestepEmbedSequential(*layers))
        self.out = nn.Sequential(nn.GroupNorm(min(32, channels), channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))

    def forward(self, x, timesteps=None, context=None, y=None, control=None, transformer_options=None, **kwargs):
        """x [B, 4, h, w], timesteps [B], context [B, tokens, width], y [B, adm_in_channels]. control: residuals, taken off its lists."""
        options = dict(transformer_options or {})
        patches = options.get("patches", {})
        emb = self.time_embed(_sinusoids(timesteps, self.model_channels).to(x.dtype))
        if self.num_classes is not None:
            emb = emb + self.label_emb(y)
        h, kept = x, []
        for index, block in enumerate(self.input_blocks):
            options["block"] = ("input", index)
            h = _controlled(block(h, emb, context, options), control, "input")
            for patch in patches.get("input_block_patch", ()):
                h = patch(h, options)
            kept.append(h)
        options["block"] = ("middle", 0)
        h = _controlled(self.middle_block(h, emb, context, options), control, "middle")
        for index, block in enumerate(self.output_blocks):
            options["block"] = ("output", index)
            skip = _controlled(kept.pop(), control, "output")
            for patch in patches.get("output_block_patch", ()):
                h, skip = patch(h, skip, options)
            h = block(torch.cat([h, skip], dim=1), emb, context, options, kept[-1].shape if kept else None)
        return self.out(h).type(x.dtype)


def _controlled(h, control, place):
    if control is not None and control.get(place):
        h += control[place].pop()
    return h
