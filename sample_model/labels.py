"""What lies where in a scene, for the second lesson of the U-Net's training.

Beside the noise, a linear layer on the U-Net's features has to say for every latent pixel which object lies there and
how it looks. That is known exactly, because the scenes are computed; it teaches the words much sooner than the noise alone
does. The layer is thrown away afterwards. (The idea, with a vision model's features in place of labels: REPA,
arXiv 2410.06940.)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lib_accel.sample import scenes

# Classes per map: nothing there or one of the words.
COUNTS = {
    "shape": 1 + len(scenes.SHAPES),
    "colour": 1 + len(scenes.COLOURS),
    "texture": 1 + len(scenes.TEXTURES),
    "background": len(scenes.BACKGROUNDS),
}
OBJECT_WEIGHT = 3.0  # objects cover a tenth of a scene


def label_maps(scene: scenes.Scene, height: int, width: int) -> np.ndarray:
    """Class of every latent pixel, (4, height, width) uint8 in the order of COUNTS; an object's outline counts as object."""
    maps = np.zeros((len(COUNTS), height, width), np.uint8)
    maps[3] = scenes.BACKGROUNDS.index(scene.background)
    side = min(height, width)
    down, across = np.arange(height, dtype=np.float32) + 0.5, np.arange(width, dtype=np.float32) + 0.5
    for item in scene.items:
        radius = scenes.SIZES[item.size]
        dx, dy = (across - item.x * width)[None, :] / side, (down - item.y * height)[:, None] / side
        cos, sin = np.cos(item.turn), np.sin(item.turn)
        u, v = (dx * cos + dy * sin) / radius, (dy * cos - dx * sin) / radius
        inside = scenes.signed_distance(item.shape, u.astype(np.float32), v.astype(np.float32)) < 0
        maps[0][inside] = 1 + scenes.SHAPES.index(item.shape)
        maps[1][inside] = 1 + list(scenes.COLOURS).index(item.colour)
        maps[2][inside] = 1 + scenes.TEXTURES.index(item.texture)
    return maps


def features_of(unet) -> int:
    """Channels of a U-Net's last but one upper block, the first whose output has the latents' own resolution."""
    return unet.config.block_out_channels[1]


class LabelHead(nn.Module):
    """Reads the label maps off a network's features, for a U-Net those that `features_of` counts."""

    def __init__(self, features: int):
        super().__init__()
        self.norm = nn.GroupNorm(32, features)
        self.project = nn.Conv2d(features, sum(COUNTS.values()), 1)

    def loss(self, features: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of features (rows, channels, h, w) against classes (rows, 4, h, w)."""
        logits = self.project(functional.silu(self.norm(features))).float().split(list(COUNTS.values()), 1)
        weight = 1 + (OBJECT_WEIGHT - 1) * (maps[:, 0] > 0)
        losses = [functional.cross_entropy(part, maps[:, index], reduction="none") for index, part in enumerate(logits)]
        return (sum(losses) * weight).mean() / weight.mean() / len(losses)


class Listener:
    """Keeps the features that a U-Net's last but one upper block produced in its last call."""

    def __init__(self, unet):
        self.features = None
        unet.up_blocks[2].register_forward_hook(self._keep)

    def _keep(self, module, inputs, output) -> None:
        self.features = output
