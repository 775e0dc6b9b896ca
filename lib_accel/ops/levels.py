"""Token grids of a U-Net's levels. Every level halves the latent, rounding up."""

from __future__ import annotations


def grid_at(latent_h: int, latent_w: int, level: int) -> tuple[int, int]:
    """Grid (height, width) in tokens after ``level`` ceil-halvings of a latent of ``latent_h`` x ``latent_w``."""
    for _ in range(level):
        latent_h, latent_w = (latent_h + 1) // 2, (latent_w + 1) // 2
    return latent_h, latent_w
