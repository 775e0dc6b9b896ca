"""Which scenes, of which size, a step of the U-Net's training sees.

Scenes come in buckets, one for each size, as SDXL trains sizes and aspects. Training begins on windows around the objects of
the smallest scenes, where words and outlines are learnt cheaply, goes on to whole scenes, and ends mostly on large ones:
there the model learns that one object stays one object. Every stage keeps a part of what came before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from . import bands, labels, latents
from .together import Together

# (height, width) in pixels: number of its first scene, how many are drawn and encoded. No scene is in two buckets.
BUCKETS = {
    (256, 256): (0, 3000),
    (256, 192): (5000, 600),
    (192, 256): (6000, 600),
    (512, 512): (10000, 500),
    (384, 512): (20000, 220),
    (512, 384): (30000, 220),
}
STAGES = (0.15, 0.5, 0.8, 0.95)  # progress of a training; between two of them shares change linearly
ALONE = 0.3  # part of the whole scenes in a batch that show one object


@dataclass(frozen=True)
class Kind:
    """One kind of batch: scenes of the sizes in `sizes`, whole or cut to windows, `pixels` latent pixels in all.

    share: at STAGES of the training, the part of the computing time that goes into it; in between it changes
    linearly. cost: seconds of a step, on any machine, relative to the others. early: below 1, more of the noisy timesteps, in which
    it is decided what lies where.
    """

    sizes: tuple
    window: bool
    pixels: int
    cost: float
    share: tuple
    early: float = 1.0


KINDS = (
    Kind(((256, 256),), True, 32 * 256, 1.1, (0.85, 0.1, 0.05, 0.0)),
    Kind(((256, 256), (256, 256), (256, 192), (192, 256)), False, 16 * 1024, 2.2, (0.15, 0.6, 0.4, 0.2), 0.75),
    Kind(((512, 512),), True, 12 * 1024, 2.2, (0.0, 0.2, 0.1, 0.1)),
    Kind(((512, 512), (512, 512), (384, 512), (512, 384)), False, 6 * 4096, 4.0, (0.0, 0.1, 0.45, 0.7), 0.6),
)


def draw_kind(rng: np.random.Generator, progress: float, kinds: tuple | None = None) -> Kind:
    """The kind of batch for a step at `progress` (0..1), of `kinds` (KINDS)."""
    kinds = kinds or KINDS
    weights = np.array([np.interp(progress, STAGES, kind.share) / kind.cost for kind in kinds])
    return kinds[rng.choice(len(kinds), p=weights / weights.sum())]


class Bucket:
    """The cached latents of training scenes of one size with their label maps.

    data: (scenes, 4, h, w) float16 latents of the scenes from number `first` on, of the training set that belongs to `seed`.
    """

    def __init__(self, data: np.ndarray, first: int, seed: int):
        self.data, (self.height, self.width) = data, data.shape[2:]
        self.scenes = [latents.training_scene(seed, first + index) for index in range(len(data))]
        self.maps = np.stack([labels.label_maps(scene, self.height, self.width) for scene in self.scenes])
        kinds = np.array([bands.kind_of(scene) for scene in self.scenes])
        self.indices = {kind: np.flatnonzero(kinds == kind) for kind in bands.KINDS if (kinds == kind).any()}

    def draw(self, rng: np.random.Generator, pixels: int, window: bool) -> tuple[list, torch.Tensor, torch.Tensor]:
        """Scenes, their latents (rows, 4, h, w) float32 and label maps (rows, 4, h, w): about `pixels` latent pixels in all.

        window: cut to windows of equal shape (square buckets only).
        """
        if window:
            kinds = list(self.indices)
            kind = kinds[rng.choice(len(kinds), p=np.array([len(self.indices[kind]) for kind in kinds]) / len(self.scenes))]
            pool, share = self.indices[kind], None
            size = self.height // 2 * (self.height // 2 if kind == "single" else self.height)
        else:
            pool, size, share = np.arange(len(self.scenes)), self.height * self.width, np.ones(len(self.scenes))
            # Windows never showed one object on a whole picture: without these the model adds a second. Two, each with what is its own,
            # take longer to learn.
            if "single" in self.indices and len(self.indices) > 1:
                alone = len(self.indices["single"])
                share[self.indices["single"]] = ALONE / (1 - ALONE) * (len(pool) - alone) / alone
            share /= share.sum()
        chosen = rng.choice(pool, min(max(1, pixels // size), len(pool)), replace=False, p=share)
        whole = slice(None), slice(None)
        places = [bands.window(self.scenes[index], self.height, rng) if window else whole for index in chosen]
        clean = np.stack([self.data[index][:, rows, columns] for index, (rows, columns) in zip(chosen, places)])
        maps = np.stack([self.maps[index][:, rows, columns] for index, (rows, columns) in zip(chosen, places)])
        return [self.scenes[index] for index in chosen], torch.from_numpy(clean.astype(np.float32)), torch.from_numpy(maps).long()


class Scenes:
    """Every bucket, drawn, encoded and kept in `folder` when it is first needed. share: part of each bucket's scenes to use. kinds: of
    batches (KINDS)."""

    def __init__(self, folder, autoencoder, seed: int, device, share: float = 1.0, kinds: tuple | None = None):
        self.kinds = kinds
        self.folder, self.autoencoder, self.seed, self.device, self.share = folder, autoencoder, seed, device, share
        self.buckets = {}

    def bucket(self, height: int, width: int) -> Bucket:
        """The bucket of pictures of height x width pixels."""
        if (height, width) not in self.buckets:
            first, count = BUCKETS[height, width]
            count = max(8, round(self.share * count))
            given = self.folder, self.autoencoder, first, count, height, width, self.seed, self.device
            data = Together().first_before_others(lambda: latents.cached_latents(*given))
            self.buckets[height, width] = Bucket(data, first, self.seed)
        return self.buckets[height, width]

    def draw(self, rng: np.random.Generator, progress: float, rows: float = 1.0) -> tuple[Kind, list, torch.Tensor, torch.Tensor]:
        """A batch for a step at `progress`: its kind, and what `Bucket.draw` returns. rows: how many, relative to what KINDS says."""
        kind = draw_kind(rng, progress, self.kinds)
        bucket = self.bucket(*kind.sizes[rng.choice(len(kind.sizes))])
        return kind, *bucket.draw(rng, int(rows * kind.pixels), kind.window)
