"""Distances between pictures, and the labelled grid."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from lib_accel.images.grid import grid, side_by_side
from lib_accel.images.metrics import distance


def noise(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def test_equal_pictures_are_identical():
    apart = distance(noise(0), noise(0))
    assert str(apart) == "identical" and apart.ssim == 1.0


def test_psnr_of_a_known_error():
    picture = Image.new("RGB", (64, 64), (100, 100, 100))
    apart = distance(Image.new("RGB", (64, 64), (110, 110, 110)), picture)
    assert apart.psnr == pytest.approx(20 * np.log10(255 / 10))
    assert 0.9 < apart.ssim < 1


def test_unrelated_pictures_are_far_apart():
    assert distance(noise(0), noise(1)).ssim < 0.1


def test_grid_holds_every_picture_and_its_labels():
    cells = [(Image.new("RGB", (64, 64), color), ["a name", "a very long line " * 9]) for color in ("red", "blue")]
    sheet = np.asarray(side_by_side(cells, ["foot"]))
    for color in ([255, 0, 0], [0, 0, 255]):
        assert (sheet == color).all(axis=2).sum() == 64 * 64
    below = sheet[80:]
    assert (below < 128).any(), "labels are drawn below the pictures"


def test_rows_and_columns_with_labels_and_empty_places():
    red = Image.new("RGB", (200, 64), "red")
    sheet = np.asarray(grid([[red, None], [red, red]], ["one", "two"], ["first", "second"], "title", footer=["foot"], missing=(0, 0, 255)))
    assert (sheet == [255, 0, 0]).all(axis=2).sum() == 3 * 200 * 64
    assert (sheet == [0, 0, 255]).all(axis=2).sum() == 200 * 64
    bare = np.asarray(grid([[red, None], [red, red]]))
    assert bare.shape[0] < sheet.shape[0] and bare.shape[1] < sheet.shape[1]


def test_letters_that_a_bitmap_font_lacks_are_spelled():
    """Pillow's own font before 10.1 has those of Latin-1 alone."""
    bitmaps = getattr(ImageFont, "load_default_imagefont", ImageFont.load_default)

    def sheet(text):
        return grid([[Image.new("RGB", (64, 64))]], [text], [text], text, lambda *_: text, [text], font=lambda size: bitmaps())

    assert sheet("é 星").tobytes() == sheet(r"é \u661f").tobytes()
