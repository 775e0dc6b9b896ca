"""Multiply-adds of a U-Net call, counted where they happen: any model, any method, no formula per layer.

What is counted: matrix products, convolutions and attention (its scores and its values), as multiply-adds over all rows of the call,
matching of tokens included. What is not: norms, activations, softmax, additions, sorting, averaging and copying of tokens, all of which
cost time but no products. Counters that look at layers alone leave out the scores and values of attention.

torch's own counter (``torch.utils.flop_counter``) knows neither the attention kernel of CPUs nor the kinds and levels told apart here.

Run it on a U-Net on torch's ``meta`` device: nothing is then computed, only shapes are passed on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..backends import backend_for
from ..core.sites import PARTS

KINDS = (
    "convolutions and embeddings",
    "self-attention projections",
    "self-attention scores and values",
    "cross-attention",
    "feed-forward",
    "matching",
)
_REST, _PROJECTIONS, _SCORES, _CROSS, _FEED, _MATCHING = KINDS
_OF_PART = {"attn1": _SCORES, "attn2": _CROSS, "ff": _FEED}


@dataclass(frozen=True)
class Level:
    """A level of a U-Net that has attention. level: halvings of the latent. grid: (height, width) in tokens."""

    level: int
    blocks: int
    grid: tuple[int, int]
    channels: int


@dataclass
class Count:
    """macs: multiply-adds by kind (see `KINDS`), over all rows of the call. levels: the levels with attention, finest first."""

    macs: Counter[str] = field(default_factory=Counter)
    levels: list[Level] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.macs.values())


def count_macs(unet: nn.Module, call: Callable[[], Any]) -> Count:
    """Count what ``call``, which runs ``unet`` once, multiplies. The U-Net is left as it was.

    "convolutions and embeddings" is everything outside of transformer blocks, "matching" everything inside of a block but outside of its
    three layers. UnsupportedModelError for an unknown U-Net.
    """
    sites = backend_for(unet).find_sites(unet)
    places: dict[int, tuple[int, int]] = {}
    widths: dict[int, int] = {}
    blocks = Counter(site.level for site in sites)
    stack = [_REST]
    handles = []

    def within(module: nn.Module, kind: str) -> None:
        handles.append(module.register_forward_pre_hook(lambda *_: stack.append(kind)))
        handles.append(module.register_forward_hook(lambda *_: stack.pop() and None))

    def see_grid(level: int) -> Callable:
        return lambda _, args, kwargs: places.update({level: tuple(_first(args, kwargs).shape[2:])})

    def see_width(level: int) -> Callable:
        return lambda _, args, kwargs: widths.update({level: _first(args, kwargs).shape[2]})

    for site in sites:
        handles.append(site.transformer.register_forward_pre_hook(see_grid(site.level), with_kwargs=True))
        handles.append(site.block.register_forward_pre_hook(see_width(site.level), with_kwargs=True))
        within(site.block, _MATCHING)
        for part in PARTS:
            if site.part(part) is not None:
                within(site.part(part), _OF_PART[part])
        for layer in site.part("attn1").modules():
            if isinstance(layer, nn.Linear):
                within(layer, _PROJECTIONS)
    try:
        with torch.no_grad(), _Counting(stack) as counting:
            call()
    finally:
        for handle in handles:
            handle.remove()
    # Where stages are left out, a level's blocks may not have run.
    return Count(counting.macs, [Level(level, blocks[level], places[level], widths[level]) for level in sorted(places.keys() & widths)])


def _first(args: tuple, kwargs: dict) -> torch.Tensor:
    return args[0] if args else next(iter(kwargs.values()))


class _Counting(TorchDispatchMode):
    """Adds every product to the kind on top of ``stack``."""

    def __init__(self, stack: list[str]) -> None:
        super().__init__()
        self.stack, self.macs = stack, Counter(dict.fromkeys(KINDS, 0))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.macs[self.stack[-1]] += products(function.overloadpacket.__name__, args, out)
        return out


def products(name: str, args: tuple, out: Any) -> int:
    """Multiply-adds of the ATen operation ``name``; 0 for one that is not counted."""
    if name in ("mm", "bmm"):
        return out.numel() * args[0].shape[-1]
    if name in ("addmm", "baddbmm"):
        return out.numel() * args[1].shape[-1]
    if name == "convolution":
        return out.numel() * args[1].shape[1:].numel()
    if name.startswith("_scaled_dot_product") and not name.endswith("backward"):
        q, k, v = args[:3]
        return q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
    return 0
