"""How much of a picture's time settings save: an estimate from multiply-adds, without running or holding a model.

What `macs.count_macs` counts, as formulas for the known shapes. Time is not counted: norms, sorting and copying of tokens come on top, and
hardware does not take the same time for every product. Whether a method pays at all is what the table of thresholds says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

from ..methods import TokenDownsampling
from ..methods.planning import cut_for
from ..methods.token_merging import merged_parts
from ..ops.levels import grid_at

TEXT_TOKENS = 77
# Multiply-adds of decoding a picture: by latent pixel, and of its one attention layer by pair of latent pixels.
DECODING, DECODING_PAIRS = 302_754_000, 1024


@dataclass(frozen=True)
class Shape:
    """A U-Net's. levels: level -> (blocks, channels). rest: multiply-adds by latent pixel outside of blocks. context: width of the text."""

    levels: Mapping[int, tuple[int, int]]
    rest: int
    context: int


SHAPES = {
    "sd1": Shape({0: (5, 320), 1: (5, 640), 2: (5, 1280), 3: (1, 1280)}, 54_192_640, 768),
    "sd2": Shape({0: (5, 320), 1: (5, 640), 2: (5, 1280), 3: (1, 1280)}, 54_192_640, 1024),
    "sdxl": Shape({1: (10, 640), 2: (60, 1280)}, 51_786_240, 2048),
}


def decoding_work(h: int, w: int) -> float:
    """Multiply-adds of decoding a latent of ``h`` x ``w``."""
    return DECODING * h * w + DECODING_PAIRS * (h * w) ** 2


def row_work(
    shape: Shape, h: int, w: int, methods: Sequence[Any] = (), least: Mapping[type, int] | None = None, cached_text: bool = False
) -> float:
    """Multiply-adds of one row of a U-Net call on a latent of ``h`` x ``w`` while ``methods`` (merging, agents, downsampling) act.

    least: tokens from which a method acts, by its class. cached_text: cross-attention comes from a cache.
    """
    finest = min(shape.levels)
    total = float(shape.rest * h * w)
    for level, (blocks, channels) in shape.levels.items():
        grid = grid_at(h, w, level)
        acting = [m for m in methods if grid[0] * grid[1] >= (least or {}).get(type(m), 0)]
        layers, matching = _block_work(grid, level - finest, channels, shape.context, acting, cached_text)
        shared = any(getattr(m, "plan", "") == "level" for m in acting)
        total += blocks * layers + matching * (1 if shared else blocks)
    return total


def _block_work(
    grid: tuple[int, int], depth: int, channels: int, context: int, methods: Sequence[Any], cached_text: bool
) -> tuple[float, float]:
    """(Multiply-adds of a block's three layers, those of one matching). depth: levels below the finest that has attention."""
    h, w = grid
    tokens = {"attn1": h * w, "attn2": h * w, "ff": h * w}
    keys = agents = None
    matching = 0.0
    for method in methods:
        if isinstance(method, TokenDownsampling):
            factor = (method.factor, method.deeper_factor)[depth] if depth < 2 else 1
            keys = -(-h // factor) * -(-w // factor)
        elif depth <= log2(method.max_downsample):
            cut = cut_for(h, w, method)
            for part in merged_parts(method):
                tokens[part] = h * w - cut.merged
            if cut.agents_gone is not None and method.merge_attn:
                agents = h * w - cut.agents_gone
            if cut.merged or (agents and method.agents == "merge"):
                stay = (h // method.sy) * (w // method.sx)
                among = stay if method.matching == "global" else min(stay, (2 * method.radius + 1) ** 2)
                matching += (h * w - stay) * among * channels / method.plan_every
    n = tokens["attn1"]
    if agents is not None:
        attn1 = channels**2 * (4 * n + agents) + 4 * channels * n * agents
    else:
        keys = n if keys is None else keys
        attn1 = 2 * channels**2 * (n + keys) + 2 * channels * n * keys
    n = tokens["attn2"]
    attn2 = 2 * channels * (n * (channels + TEXT_TOKENS) + context * TEXT_TOKENS)
    return attn1 + (0 if cached_text else attn2) + 12 * channels**2 * tokens["ff"], matching
