"""diffusers' PixArtTransformer2DModel (PixArt-alpha, PixArt-sigma): blocks like a U-Net's, all on one grid. diffusers is never imported."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..core.model_words import TRANSFORMER
from ..core.sites import Site, named
from ..core.stages import Stage
from .diffusers import DiffusersBackend


class PixArtBackend(DiffusersBackend):
    name = "pixart"
    noun = TRANSFORMER
    looked_for = "a PixArt transformer (PixArtTransformer2DModel with transformer_blocks)"
    sample_name = "hidden_states"

    def matches(self, unet: nn.Module) -> bool:
        return named(unet, "PixArtTransformer2DModel") and hasattr(unet, "transformer_blocks")

    def find_sites(self, unet: nn.Module) -> list[Site]:
        level = (self._patch(unet) - 1).bit_length()
        return [Site.of(f"transformer_blocks.{i}", level, "mid", unet, block) for i, block in enumerate(unet.transformer_blocks)]

    def find_stages(self, unet: nn.Module) -> tuple[Stage, ...]:
        # Its blocks have no skip connections.
        return ()

    def timestep_of(self, args: tuple, kwargs: dict) -> Any:
        """Here the third argument."""
        return args[2] if len(args) > 2 else kwargs.get(self.timestep_name)

    def grid_of(self, unet: nn.Module, sample: torch.Tensor) -> tuple[int, int] | None:
        patch = self._patch(unet)
        return sample.shape[-2] // patch, sample.shape[-1] // patch

    @staticmethod
    def _patch(unet: nn.Module) -> int:
        return int(unet.config.patch_size)
