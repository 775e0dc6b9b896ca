"""Attention written out, for training on processors."""

from __future__ import annotations

import torch


class PlainAttention:
    """A diffusers attention processor that multiplies, normalises and multiplies, in bfloat16 throughout.

    PyTorch's fused attention is slow at going backwards on processors when heads are as narrow as here: with this in
    its place a training step takes half the time. The numbers are those of the fused one, up to rounding.
    """

    def __call__(self, attn, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, **_) -> torch.Tensor:
        """Attention of `attn` (a diffusers layer) over tokens (rows, tokens, channels); masks are not supported."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        query, key, value = (tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2).flatten(0, 1) for tokens in projected)
        scores = torch.bmm(query * query.shape[-1] ** -0.5, key.transpose(1, 2))
        with torch.autocast(scores.device.type, enabled=False):  # which would take the softmax to float32
            shares = scores.softmax(-1)
        joined = torch.bmm(shares, value).unflatten(0, (-1, attn.heads)).transpose(1, 2).flatten(2)
        return attn.to_out[0](joined)
