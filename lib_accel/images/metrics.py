"""Numbers for how far pictures are from the plain ones: distance, tone, detail, features, and what they still show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from PIL import Image

LUMA = np.array((0.299, 0.587, 0.114))  # ITU-R BT.601


@dataclass(frozen=True)
class Distance:
    """How far a picture is from a reference. psnr: dB, infinite for equal pictures. ssim: structural similarity, 1 for equal ones."""

    psnr: float
    ssim: float

    def __str__(self) -> str:
        if math.isinf(self.psnr):
            return "identical"
        return f"PSNR {self.psnr:.1f} dB, SSIM {self.ssim:.3f}"


def distance(picture: Image.Image, reference: Image.Image) -> Distance:
    """PSNR and SSIM (Wang et al. 2004, Gaussian window) over 8-bit RGB. Pictures must have the same size."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    a, b = np.asarray(picture.convert("RGB")), np.asarray(reference.convert("RGB"))
    if np.array_equal(a, b):
        return Distance(math.inf, 1.0)
    ssim = structural_similarity(b, a, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    return Distance(float(peak_signal_noise_ratio(b, a)), float(ssim))


def tone_shift(picture: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Change of the mean luminance and of the mean saturation, each on a scale of 0 to 255. Pictures are uint8 (h, w, 3)."""
    luminance = _luminance(picture).mean() - _luminance(reference).mean()
    return float(luminance), float(_saturation(picture).mean() - _saturation(reference).mean())


def detail_ratio(picture: np.ndarray, reference: np.ndarray) -> float:
    """High-frequency energy (squared Laplacian of the luminance) relative to the reference's; 1 is as sharp, below is smoother."""
    own, whole = _detail(picture), _detail(reference)
    # Two flat pictures (black ones of an overflow, say) are as sharp as each other.
    return float(own / max(whole, 1e-12)) if own or whole else 1.0


def paired_interval(before: Sequence[bool], after: Sequence[bool]) -> tuple[float, float, float]:
    """Change of a share measured on the same cases, with its 95 % interval (Bonett and Price 2012): change, low, high.

    The interval keeps its width when no case changed, which with few cases says little.
    """
    n = len(before)
    if n == 0 or n != len(after):
        raise ValueError("both sides need the same cases, and at least one")
    gained = sum(1 for b, a in zip(before, after) if a and not b)
    lost = sum(1 for b, a in zip(before, after) if b and not a)
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = 1.959964 * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return (gained - lost) / n, max(-1.0, up - down - half), min(1.0, up - down + half)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance between the Gaussians fitted to two sets of feature rows, (pictures, features) each, at least two rows."""
    if len(a) < 2 or len(b) < 2:
        raise ValueError("the Fréchet distance needs at least two pictures on each side")
    mean = ((a.mean(0) - b.mean(0)) ** 2).sum()
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = _root(first)
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ second @ root), 0, None)).sum()
    return float(max(0.0, mean + np.trace(first) + np.trace(second) - 2 * cross))


@torch.no_grad()
def features(autoencoder: Any, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """What the autoencoder's encoder makes of each picture before its last layer, averaged over the picture: (pictures, channels)."""
    caught: list[torch.Tensor] = []
    handle = autoencoder.encoder.mid_block.register_forward_hook(
        lambda module, args, output: caught.append(output.float().mean((2, 3)).cpu())
    )
    try:
        for picture in pictures:
            batch = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
            autoencoder.encode(batch.to(autoencoder.device, autoencoder.dtype))
    finally:
        handle.remove()
    return torch.cat(caught).double().numpy()


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def _luminance(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float64) @ LUMA


def _saturation(picture: np.ndarray) -> np.ndarray:
    values = picture.astype(np.float64)
    highest = values.max(2)
    return 255 * (highest - values.min(2)) / np.maximum(highest, 1)


def _detail(picture: np.ndarray) -> float:
    y = _luminance(picture)
    laplacian = 4 * y[1:-1, 1:-1] - y[:-2, 1:-1] - y[2:, 1:-1] - y[1:-1, :-2] - y[1:-1, 2:]
    return float((laplacian**2).mean())
