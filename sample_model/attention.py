"""Attention for training on processors, where PyTorch's fused kernels are slow with heads as narrow as here."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

HALF, BFLOAT, NARROW = "half_attention.cpp", "bfloat_attention.cpp", "narrow_attention.cpp"
WIDTHS = {HALF: (4, 8, 16), BFLOAT: (4, 8, 16), NARROW: (4, 8)}  # channels of a head that each kernel knows
THINNED = 1024  # tokens, from which on `TrainingAttention` thins keys
# What vectors need of -ffast-math; all of it would change how the whole process treats the smallest numbers.
FLAGS = "-O3 -march=native -mprefer-vector-width=512 -funroll-loops -fopenmp -fPIC -shared -fno-math-errno -fno-trapping-math"
FLAGS += " -fassociative-math -fno-signed-zeros -ffinite-math-only -freciprocal-math"


@cache
def compiled(source: str) -> ctypes.CDLL | None:
    """The kernel of the file ``source``, compiled on first use; None where the compiler fails."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / f"{source}.so"
        command = [os.environ.get("CXX", "c++"), *FLAGS.split(), str(Path(__file__).with_name(source)), "-o", str(library)]
        try:
            subprocess.run(command, check=True, capture_output=True)
            return ctypes.CDLL(str(library))
        except (OSError, subprocess.CalledProcessError) as error:
            if source == NARROW:  # The others do not compile where the processor has not their instructions.
                print(f"attention is not compiled, so training is slower: {error}", flush=True)
            return None


@cache
def compiled_for_bfloat16() -> ctypes.CDLL | None:
    """The fastest kernel for bfloat16 tensors that this processor can run; None where it can run neither."""
    return next((found for source in (HALF, BFLOAT) if (found := compiled(source)) is not None), None)


def _pointers(*tensors: torch.Tensor) -> list:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


class NarrowAttention(torch.autograd.Function):
    """Softmax attention of (heads, tokens, channels) float32 tensors, contiguous, with as many channels as its kernel knows; no mask."""

    @staticmethod
    def forward(ctx, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out, lse = torch.empty_like(query), query.new_empty(query.shape[:2])
        compiled(NARROW).narrow_forward(*_pointers(query, key, value), *NarrowAttention._sizes(query, key), *_pointers(out, lse))
        ctx.save_for_backward(query, key, value, out, lse)
        return out

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple:
        query, key, value, out, lse = ctx.saved_tensors
        slopes = [torch.empty_like(tensor) for tensor in (query, key, value)]
        given = _pointers(query, key, value, out, lse, grad.contiguous())
        compiled(NARROW).narrow_backward(*given, *NarrowAttention._sizes(query, key), *_pointers(*slopes))
        return tuple(slopes)

    @staticmethod
    def _sizes(query: torch.Tensor, key: torch.Tensor) -> list:
        sizes = [ctypes.c_int64(size) for size in (*query.shape[:2], key.shape[1])]
        return [*sizes, ctypes.c_int(query.shape[2]), ctypes.c_int(torch.get_num_threads())]


class BfloatAttention(torch.autograd.Function):
    """The same of (rows, tokens, heads x channels) bfloat16 tensors, computed as this processor is fastest in."""

    @staticmethod
    def forward(ctx, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int) -> torch.Tensor:
        query, key, value = (tensor.contiguous() for tensor in (query, key, value))
        out, lse = torch.empty_like(query), query.new_empty((len(query), heads, query.shape[1]), dtype=torch.float32)
        given = _pointers(query, key, value), BfloatAttention._sizes(query, key, heads), _pointers(out, lse)
        compiled_for_bfloat16().bfloat_forward(*given[0], *given[1], *given[2])
        ctx.save_for_backward(query, key, value, out, lse)
        return out

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple:
        query, key, value, out, lse = ctx.saved_tensors
        slopes = [torch.empty_like(tensor) for tensor in (query, key, value)]
        grad = grad.contiguous()
        given = _pointers(query, key, value, out, lse, grad)
        compiled_for_bfloat16().bfloat_backward(*given, *BfloatAttention._sizes(query, key, lse.shape[1]), *_pointers(*slopes))
        return (*slopes, None)

    @staticmethod
    def _sizes(query: torch.Tensor, key: torch.Tensor, heads: int) -> list:
        sizes = [ctypes.c_int64(size) for size in (len(query), heads, query.shape[1], key.shape[1])]
        return [*sizes, ctypes.c_int(query.shape[2] // heads), ctypes.c_int(torch.get_num_threads())]


class TrainingAttention:
    """A diffusers attention processor: a compiled kernel for narrow heads, else PyTorch's fused attention.

    The numbers are the same up to rounding. With heads of 4 channels a training step takes less than half of the time.

    thinned: whether self-attention over many tokens sees some of their keys only, others in every call: of 1024 tokens one in 2, of 4096
    one in 4. Neighbours are alike, so it learns nearly the same in a part of the time; finish a training without.
    """

    def __init__(self, thinned: bool = False):
        self.thinned = thinned

    def __call__(self, attn, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, **_) -> torch.Tensor:
        """Attention of `attn` (a diffusers layer) over tokens (rows, tokens, channels); masks are not supported."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if self.thinned and encoder_hidden_states is None and (count := hidden_states.shape[1]) >= THINNED:
            apart = 2 if count < 2 * THINNED else 4
            chosen = torch.arange(0, count, apart) + torch.randint(apart, (count // apart,))
            context = hidden_states[:, chosen.to(hidden_states.device)]
        projected = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        return attn.to_out[0](_attend(*projected, attn.heads))


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int) -> torch.Tensor:
    """Attention of (rows, tokens, heads x channels)."""
    width, on_cpu = query.shape[-1] // heads, query.device.type == "cpu"
    if on_cpu and query.dtype == torch.bfloat16 and width in WIDTHS[BFLOAT] and compiled_for_bfloat16() is not None:
        return BfloatAttention.apply(query, key, value, heads)
    parts = [tokens.unflatten(-1, (heads, -1)).transpose(1, 2) for tokens in (query, key, value)]
    if on_cpu and width in WIDTHS[NARROW] and compiled(NARROW) is not None:
        # One copy each: to float32 and to the heads' order at once.
        copies = [part.to(torch.float32, memory_format=torch.contiguous_format).flatten(0, 1) for part in parts]
        mixed = NarrowAttention.apply(*copies).to(query.dtype).unflatten(0, (-1, heads))
    else:
        mixed = torch.nn.functional.scaled_dot_product_attention(*parts)
    return mixed.transpose(1, 2).flatten(2)


class FluxTrainingAttention:
    """The same for layers of diffusers' Flux transformers: two products and a softmax, three times as fast in bfloat16 as PyTorch's fused
    attention with heads of 32 channels and a few hundred tokens (torch 2.13)."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None):
        """Attention of `attn` over patches and, in blocks that have words apart, over both; masks are not supported."""
        from diffusers.models.embeddings import apply_rotary_emb

        streams = [(hidden_states, attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k)]
        if encoder_hidden_states is not None:
            added = attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q, attn.norm_added_k
            streams.insert(0, (encoder_hidden_states, *added))
        parts = []
        for tokens, to_query, to_key, to_value, norm_query, norm_key in streams:
            query, key, value = (project(tokens).unflatten(-1, (attn.heads, -1)) for project in (to_query, to_key, to_value))
            parts.append((norm_query(query), norm_key(key), value))
        query, key, value = (torch.cat(part, 1) for part in zip(*parts))
        query, key = (apply_rotary_emb(part, image_rotary_emb, sequence_dim=1) for part in (query, key))
        query, key, value = (part.to(value.dtype).transpose(1, 2) for part in (query, key, value))
        weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1)
        mixed = (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return mixed
        words, patches = mixed.split([encoder_hidden_states.shape[1], hidden_states.shape[1]], 1)
        return attn.to_out[0](patches), attn.to_add_out(words)
