"""Attention for training on processors, where PyTorch's fused kernels are slow with heads as narrow as here."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

WIDTHS = {"half_attention.cpp": (4, 8, 16), "narrow_attention.cpp": (4, 8)}  # channels of a head that each kernel knows
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
            if source == "narrow_attention.cpp":  # The other does not compile where the processor cannot compute in half precision.
                print(f"attention is not compiled, so training is slower: {error}", flush=True)
            return None


def kernel_for(width: int, dtype: torch.dtype) -> ctypes.CDLL | None:
    """The kernel for heads of ``width`` channels whose numbers are ``dtype``; None where PyTorch's attention is used."""
    sources = ("narrow_attention.cpp",) if dtype == torch.float32 else ("half_attention.cpp", "narrow_attention.cpp")
    return next((kernel for source in sources if width in WIDTHS[source] and (kernel := compiled(source))), None)


def _pointers(*tensors: torch.Tensor) -> list:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def _sizes(query: torch.Tensor, key: torch.Tensor) -> list:
    sizes = [ctypes.c_int64(size) for size in (*query.shape[:2], key.shape[1])]
    return [*sizes, ctypes.c_int(query.shape[2]), ctypes.c_int(torch.get_num_threads())]


class NarrowAttention(torch.autograd.Function):
    """Softmax attention of (heads, tokens, channels) float32 tensors, contiguous, with as many channels as ``kernel`` knows; no mask."""

    @staticmethod
    def forward(ctx, kernel: ctypes.CDLL, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out, lse = torch.empty_like(query), query.new_empty(query.shape[:2])
        kernel.narrow_forward(*_pointers(query, key, value), *_sizes(query, key), *_pointers(out, lse))
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.kernel = kernel
        return out

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple:
        query, key, value, out, lse = ctx.saved_tensors
        slopes = [torch.empty_like(tensor) for tensor in (query, key, value)]
        grad = grad.contiguous()
        ctx.kernel.narrow_backward(*_pointers(query, key, value, out, lse, grad), *_sizes(query, key), *_pointers(*slopes))
        return (None, *slopes)


class TrainingAttention:
    """A diffusers attention processor: the compiled kernel for narrow heads, else PyTorch's fused attention.

    The numbers are the same up to rounding. With heads of 4 channels a training step takes less than half of the time.
    """

    def __call__(self, attn, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, **_) -> torch.Tensor:
        """Attention of `attn` (a diffusers layer) over tokens (rows, tokens, channels); masks are not supported."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        heads = [tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for tokens in projected]
        kernel = kernel_for(heads[0].shape[-1], heads[0].dtype) if heads[0].device.type == "cpu" else None
        if kernel is not None:
            # One copy each: to float32 and to the heads' order at once.
            parts = [part.to(torch.float32, memory_format=torch.contiguous_format).flatten(0, 1) for part in heads]
            mixed = NarrowAttention.apply(kernel, *parts).to(heads[0].dtype)
            mixed = mixed.unflatten(0, (-1, attn.heads))
        else:
            mixed = torch.nn.functional.scaled_dot_product_attention(*heads)
        return attn.to_out[0](mixed.transpose(1, 2).flatten(2))
