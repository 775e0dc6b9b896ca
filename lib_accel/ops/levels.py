"""Token grids of a U-Net's levels. Every level halves the latent, rounding up."""

from __future__ import annotations


def grid_at(latent_h: int, latent_w: int, level: int) -> tuple[int, int]:
    """Grid (height, width) in tokens after ``level`` ceil-halvings of a latent of ``latent_h`` x ``latent_w``."""
    for _ in range(level):
        latent_h, latent_w = (latent_h + 1) // 2, (latent_w + 1) // 2
    return latent_h, latent_w


def level_of(tokens: int, latent_h: int, latent_w: int, deepest: int = 6) -> int | None:
    """The level whose grid holds ``tokens`` tokens, or None when none of the first ``deepest`` + 1 levels does.

    For callers that see a token count and nothing else. Inside the library a level is a block's place in the U-Net and the grid is
    read at its spatial transformer; the published square-root formula is wrong for thousands of sizes.
    """
    for level in range(deepest + 1):
        h, w = grid_at(latent_h, latent_w, level)
        if h * w == tokens:
            return level
    return None
