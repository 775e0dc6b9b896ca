"""Attention for training on processors, where PyTorch's fused kernels are slow with heads as narrow as here."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

WIDTHS = (4, 8, 16)  # channels of a head that the compiled kernel knows


@cache
def compiled():
    """The kernel of `narrow_attention.cpp`, compiled on first use; None where there is no compiler, which is said once."""
    from torch.utils import cpp_extension

    try:
        return cpp_extension.load(
            "narrow_attention",
            [str(Path(__file__).with_name("narrow_attention.cpp"))],
            extra_cflags=["-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-funroll-loops"],
        )
    except Exception as error:  # no compiler, no ninja, no headers: each raises something else
        print(f"attention is not compiled, training takes about twice as long: {type(error).__name__}", flush=True)
        return None


class _Narrow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value):
        out, lse = compiled().forward(query, key, value)
        ctx.save_for_backward(query, key, value, out, lse)
        return out

    @staticmethod
    def backward(ctx, grad):
        return tuple(compiled().backward(*ctx.saved_tensors, grad.contiguous()))


class TrainingAttention:
    """A diffusers attention processor: the compiled kernel for narrow heads, else products and softmax in bfloat16.

    With heads of 4 channels a training step takes a third of the time of PyTorch's fused attention. The numbers are
    the same up to rounding.
    """

    def __call__(self, attn, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, **_) -> torch.Tensor:
        """Attention of `attn` (a diffusers layer) over tokens (rows, tokens, channels); masks are not supported."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        query, key, value = (tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2).flatten(0, 1) for tokens in projected)
        if query.device.type == "cpu" and query.shape[-1] in WIDTHS and compiled() is not None:
            mixed = _Narrow.apply(query.float().contiguous(), key.float().contiguous(), value.float().contiguous()).to(projected[0].dtype)
        else:
            mixed = _plain(query, key, value)
        return attn.to_out[0](mixed.unflatten(0, (-1, attn.heads)).transpose(1, 2).flatten(2))


def _plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    scores = torch.bmm(query * query.shape[-1] ** -0.5, key.transpose(1, 2))
    with torch.autocast(scores.device.type, enabled=False):  # which would take the softmax to float32
        shares = scores.softmax(-1)
    return torch.bmm(shares, value)
