"""Comparing pictures and laying them out in a labelled grid."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 12
FONT_SIZE = 15


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


def labelled_grid(
    cells: list[tuple[Image.Image, list[str]]], footer: list[str], font: ImageFont.ImageFont | ImageFont.FreeTypeFont | None = None
) -> Image.Image:
    """Pictures side by side, the lines of each below it, ``footer`` lines below all of them. font: instead of Pillow's own."""
    font = font or _font(FONT_SIZE)
    line = font.getbbox("Ag")[3] + 5
    width = max(max(picture.width for picture, _ in cells), 300)
    wrap = max(20, int(width / (font.getlength("abcdefghij klmnop") / 17)))
    labels = [[part for text in texts for part in textwrap.wrap(text, wrap)] for _, texts in cells]
    whole = MARGIN + len(cells) * (width + MARGIN)
    foot = [part for text in footer for part in textwrap.wrap(text, int(wrap * (whole - 2 * MARGIN) / width))]
    height = max(picture.height for picture, _ in cells)
    below = MARGIN + height + MARGIN // 2
    grid = Image.new("RGB", (whole, below + line * max(map(len, labels)) + line * len(foot) + 2 * MARGIN), "white")
    draw = ImageDraw.Draw(grid)
    for index, ((picture, _), texts) in enumerate(zip(cells, labels)):
        left = MARGIN + index * (width + MARGIN)
        grid.paste(picture, (left + (width - picture.width) // 2, MARGIN))
        for row, text in enumerate(texts):
            draw.text((left, below + row * line), text, fill="black", font=font)
    top = grid.height - MARGIN - line * len(foot)
    for row, text in enumerate(foot):
        draw.text((MARGIN, top + row * line), text, fill=(90, 90, 90), font=font)
    return grid


def _font(size: int) -> ImageFont.ImageFont:
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()
