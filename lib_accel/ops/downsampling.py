"""Fewer tokens by their place in the grid alone: leaving out rows and columns, or the mean of every cell."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def downsample_grid(x: torch.Tensor, h: int, w: int, factor: int) -> torch.Tensor:
    """[B, h*w, C] -> [B, ceil(h/factor) * ceil(w/factor), C]: every ``factor``-th token of every ``factor``-th row, from the top left.

    Source: ToDo: Token Downsampling for Efficient Generation of High-Resolution Images (Smith et al., arXiv 2402.13573), nearest.
    """
    return x.unflatten(1, (h, w))[:, ::factor, ::factor].flatten(1, 2)


class GridPool:
    """The mean of every cell of ``sx`` x ``sy`` tokens of an ``h`` x ``w`` grid; cells at the far edges may hold fewer."""

    def __init__(self, h: int, w: int, sx: int, sy: int) -> None:
        self.grid, self.cell = (h, w), (sy, sx)

    def merge(self, y: torch.Tensor) -> torch.Tensor:
        """[B, h*w, C] -> [B, ceil(h/sy) * ceil(w/sx), C]; accumulates in float32."""
        wide = y.float() if y.dtype in (torch.float16, torch.bfloat16) else y
        pooled = F.avg_pool2d(wide.unflatten(1, self.grid).permute(0, 3, 1, 2), self.cell, ceil_mode=True)
        return pooled.permute(0, 2, 3, 1).flatten(1, 2).to(y.dtype)
