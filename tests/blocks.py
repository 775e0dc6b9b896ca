"""One transformer block of LDM in the smallest U-Net that has the real classes around it."""

from __future__ import annotations

import torch
from ldm.modules.attention import BasicTransformerBlock, SpatialTransformer
from torch import nn


class Downsample(nn.Module):
    """Every second row and column; named as LDM's, by which its backend counts levels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, ::2, ::2]


class BlockUNet(nn.Module):
    """A transformer of ``depth`` blocks at full size, and one at half size.

    Transformers pass their pixels to the blocks as they are, so what a block is given is what the test gives. ``seen`` holds the last
    output of every block by its site's name.
    """

    def __init__(self, channels: int = 32, heads: int = 4, context: int = 24, depth: int = 1) -> None:
        super().__init__()
        make = {"in_channels": channels, "n_heads": heads, "d_head": channels // heads, "depth": depth, "use_checkpoint": False}
        fine, coarse = (SpatialTransformer(context_dim=[context] * depth, **make) for _ in range(2))
        for transformer in (fine, coarse):
            transformer.norm = transformer.proj_in = transformer.proj_out = nn.Identity()
        self.input_blocks = nn.ModuleList([nn.ModuleList([fine]), nn.ModuleList([Downsample(), coarse])])
        self.middle_block = nn.ModuleList()
        self.output_blocks = nn.ModuleList()
        self.seen: dict[str, torch.Tensor] = {}
        for name, block in self.named_modules():
            if isinstance(block, BasicTransformerBlock):
                block.register_forward_hook(lambda module, args, out, name=name: self.seen.update({name: out}))

    def forward(self, x, timesteps=None, context=None):
        fine, (down, coarse) = self.input_blocks[0][0], self.input_blocks[1]
        context = [context] * len(coarse.transformer_blocks)
        return fine(x, context), coarse(down(x), context)

    def load_blocks(self, weights: dict[str, torch.Tensor]) -> BlockUNet:
        """The same weights into every block; returns self."""
        for block in self.modules():
            if isinstance(block, BasicTransformerBlock):
                block.load_state_dict(weights)
        return self

    def block_output(self, x: torch.Tensor, context: torch.Tensor, level: int = 0, block: int = 0, timestep: float = 500.0) -> torch.Tensor:
        """What the ``block``-th block of ``level`` returns in a call with latents ``x`` [B, C, H, W]."""
        with torch.no_grad():
            self(x, torch.full((x.shape[0],), timestep), context)
        place = "0.0" if level == 0 else "1.1"
        return self.seen[f"input_blocks.{place}.transformer_blocks.{block}"]
