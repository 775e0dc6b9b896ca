"""Scenes drawn and encoded once, so that training the U-Net never waits for a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lib_accel.sample import scenes

from .training import precision_for


def training_scene(seed: int, index: int) -> scenes.Scene:
    """Scene number `index` of the training set that belongs to `seed`; never a held-out one."""
    return scenes.random_scene(np.random.default_rng((seed, 7, index)))


@torch.no_grad()
def encode_scenes(autoencoder, first: int, count: int, height: int, width: int, seed: int, device, batch: int = 8) -> np.ndarray:
    """Latents of `count` training scenes from number `first` on, drawn at height x width pixels.

    Returns (count, 4, height/8, width/8) float16, already times the autoencoder's scaling factor (spread about 1).
    """
    parts = []
    for start in range(first, first + count, batch):
        numbers = range(start, min(start + batch, first + count))
        pictures = np.stack([scenes.render(training_scene(seed, index), height, width) for index in numbers])
        pictures = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().contiguous().to(device) / 127.5 - 1
        with precision_for(device):
            mean = autoencoder.encode(pictures).latent_dist.mean
        parts.append((mean.float() * autoencoder.config.scaling_factor).half().cpu().numpy())
    return np.concatenate(parts)


def cached_latents(folder: Path, autoencoder, first: int, count: int, height: int, width: int, seed: int, device) -> np.ndarray:
    """`encode_scenes`, kept in `folder` between runs. Delete the files there after training another autoencoder."""
    path = folder / f"latents-{height}x{width}-{first}-{count}-{seed}.npy"
    if not path.is_file():
        print(f"encoding {count} scenes at {width}x{height}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, encode_scenes(autoencoder, first, count, height, width, seed, device))
        partial.replace(path)
    return np.load(path, mmap_mode="r")
