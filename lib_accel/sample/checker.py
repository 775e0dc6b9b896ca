"""Look at a picture and say which scene it shows: background, objects, colours, shapes, textures, sizes, places.

Plain numpy, no learning: the scene world is simple enough to be measured. It never looks at the prompt, so it cannot
be talked into seeing what was asked for. `judge` compares what it saw with what a caption wants.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np

from . import scenes
from .captions import Wanted

SIDE = 256  # pictures are resized so that their shorter side has this many pixels before they are looked at
FOREGROUND = 0.13  # a pixel farther than this from the background's colour (0..1, worst channel) belongs to an object
SMALLEST = 0.005  # share of the largest square in the picture below which a patch is a blemish, not an object
STRANGEST = 0.15  # mean distance (0..1) from the nearest background above which a picture shows none of them
CLEAREST = 0.60  # overlap with the best template below which a shape is not recognised
_GRID = 40  # side of the squares on which outlines are compared


@dataclass(frozen=True)
class Seen:
    """One object as it appears. `shape` is None when no template fits; `x`, `y` are its centre in 0..1."""

    shape: str | None
    colour: str
    texture: str
    size: str
    x: float
    y: float


@dataclass(frozen=True)
class Verdict:
    """What of a caption a picture shows. Tuples have one entry per wanted object, in the caption's order."""

    background: bool | None  # None: the caption names none
    colours: tuple
    shapes: tuple
    textures: tuple
    sizes: tuple
    relation: bool | None  # None: the caption names none, or an object is missing

    @property
    def objects(self) -> bool:
        """True when every wanted object is there with its colour and its shape."""
        return all(self.colours) and all(self.shapes)

    @property
    def right(self) -> bool:
        """True when background, objects (colour and shape) and relation are all as the caption says."""
        return self.background is not False and self.objects and self.relation is not False


def look(picture) -> tuple[str | None, list]:
    """Name the background (None: none of them) and list the objects seen, largest first.

    picture: (height, width, 3) uint8 or a PIL image.
    """
    values = _prepare(picture)
    left, right = np.median(values[:, :4], axis=1), np.median(values[:, -4:], axis=1)
    background = _nearest_background((left + right) / 2)
    across = np.linspace(0, 1, values.shape[1], dtype=np.float32)[None, :, None]
    plain = left[:, None] * (1 - across) + right[:, None] * across
    mask = np.abs(values - plain).max(axis=2) > FOREGROUND
    mask = _shrink(_grow(mask))  # heals cracks one pixel wide
    patches = [patch for patch in _patches(mask) if patch.sum() >= SMALLEST * SIDE**2]
    patches.sort(key=lambda patch: -int(patch.sum()))
    return background, [_describe(values, patch) for patch in patches]


def judge(picture, wanted: Wanted) -> Verdict:
    """Compare a picture with what a caption wants (`captions.parse`)."""
    background, seen = look(picture)
    seen = seen[:4]
    padded = seen + [None] * max(0, len(wanted.items) - len(seen))

    def agreement(choice):
        return sum(
            2 * (found.colour == item[1]) + 2 * (found.shape == item[0]) + 0.1 * (found.texture == item[2])
            for found, item in zip(choice, wanted.items)
            if found is not None
        )

    best = max(permutations(padded, len(wanted.items)), key=agreement)
    pairs = list(zip(best, wanted.items))
    relation = None
    if wanted.relation and len(best) == 2 and None not in best:
        first, second = best
        across, down = second.x - first.x, second.y - first.y
        relation = bool({"left": across, "right": -across, "above": down, "below": -down}[wanted.relation] > 0)
    return Verdict(
        background=None if wanted.background is None else background == wanted.background,
        colours=tuple(found is not None and (item[1] is None or found.colour == item[1]) for found, item in pairs),
        shapes=tuple(found is not None and found.shape == item[0] for found, item in pairs),
        textures=tuple(found is not None and found.texture == item[2] for found, item in pairs),
        sizes=tuple(found is not None and found.size == item[3] for found, item in pairs),
        relation=relation,
    )


def _prepare(picture) -> np.ndarray:
    """The picture as (height, width, 3) float32 in 0..1: its shorter side has SIDE pixels, the longer one an even number."""
    values = np.asarray(picture)
    height, width = values.shape[:2]
    size = tuple(2 * round(SIDE / 2 * side / min(height, width)) for side in (width, height))
    if size != (width, height):
        from PIL import Image

        values = np.asarray(Image.fromarray(values).resize(size, Image.BOX))
    return values[..., :3].astype(np.float32) / 255


def _nearest_background(rows: np.ndarray) -> str | None:
    """The background whose column of colours is nearest to `rows` (height, 3), over a few heights of the horizon."""

    def distance(name):
        return min(np.abs(rows - scenes.background_rows(name, len(rows), 0.0, shift)).mean() for shift in (-0.03, 0.0, 0.03))

    nearest = min(scenes.BACKGROUNDS, key=distance)
    return nearest if distance(nearest) <= STRANGEST else None


def _grow(mask: np.ndarray) -> np.ndarray:
    """The mask with every pixel next to it."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    across = grown.copy()
    across[:, 1:] |= grown[:, :-1]
    across[:, :-1] |= grown[:, 1:]
    return across


def _shrink(mask: np.ndarray) -> np.ndarray:
    """The mask without its outermost pixels."""
    return ~_grow(~mask)


def _patches(mask: np.ndarray) -> list:
    """Connected patches of a mask, each as a mask. Works on blocks of 2x2 pixels, so gaps of one pixel connect."""
    coarse = mask.reshape(mask.shape[0] // 2, 2, mask.shape[1] // 2, 2).any(axis=(1, 3))
    labels = np.where(coarse, np.arange(1, coarse.size + 1).reshape(coarse.shape), 0)
    while True:
        # The highest number of a patch runs along rows and columns until nothing changes any more.
        spread = labels
        for axis in (0, 1):
            padded = np.pad(spread, 1)
            ahead = padded[2:, 1:-1] if axis == 0 else padded[1:-1, 2:]
            behind = padded[:-2, 1:-1] if axis == 0 else padded[1:-1, :-2]
            spread = np.where(coarse, np.maximum(spread, np.maximum(ahead, behind)), 0)
        if np.array_equal(spread, labels):
            break
        labels = spread
    whole = labels.repeat(2, axis=0).repeat(2, axis=1)
    return [(whole == label) & mask for label in np.unique(labels) if label]


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left, right (ends exclusive) of the mask's bounding box."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def _outline(mask: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The mask's box stretched to a (_GRID, _GRID) square of 0..1, and the box's height and width in mask pixels."""
    from PIL import Image

    top, bottom, left, right = _box(mask)
    cut = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255)
    square = np.asarray(cut.resize((_GRID, _GRID), Image.BOX), dtype=np.float32) / 255
    return square, float(bottom - top), float(right - left)


@cache
def _templates() -> tuple:
    """(shape, outline, height, width) of every shape in three rotations; height and width for radius 1."""
    axis = (np.arange(240, dtype=np.float32) + 0.5) / 100 - 1.2
    found = []
    for shape in scenes.SHAPES:
        for turn in (-0.06, 0.0, 0.06):
            u, v = np.meshgrid(axis, axis)
            u, v = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
            outline, height, width = _outline(scenes.signed_distance(shape, u, v) < 0)
            found.append((shape, outline, height / 100, width / 100))
    return tuple(found)


def _describe(values: np.ndarray, patch: np.ndarray) -> Seen:
    """Shape, colour, texture, size and centre of the object that covers `patch`."""
    outline, height, width = _outline(patch)

    def fit(template):
        _, other, tall, wide = template
        overlap = np.minimum(outline, other).sum() / np.maximum(outline, other).sum()
        # A stretched box hides the proportions, so a wrong aspect costs.
        return overlap - 0.5 * abs(np.log((height / width) / (tall / wide)))

    best = max(_templates(), key=fit)
    radius = np.sqrt(height / best[2] * width / best[3]) / SIDE
    size = min(scenes.SIZES, key=lambda name: abs(np.log(radius / scenes.SIZES[name])))
    inner = _shrink(_shrink(patch))
    inner = inner if inner.sum() > 30 else patch
    colour, texture = _surface(values, inner)
    top, bottom, left, right = _box(patch)
    return Seen(
        best[0] if fit(best) >= CLEAREST else None,
        colour,
        texture,
        size,
        float(left + right) / 2 / patch.shape[1],
        float(top + bottom) / 2 / patch.shape[0],
    )


def _surface(values: np.ndarray, inner: np.ndarray) -> tuple[str, str]:
    """Colour and texture of the pixels in `inner`."""
    pixels = values[inner]
    white = (pixels.min(axis=1) > 0.62) & (pixels.max(axis=1) - pixels.min(axis=1) < 0.22)
    tinted = np.median(pixels[~white] if (~white).sum() > 20 else pixels, axis=0)

    def distance(name):
        pure = np.array(scenes.COLOURS[name], np.float32)
        shade = np.clip(tinted @ pure / (pure @ pure), 0.75, 1.2)  # light and shadow change how bright, not which
        return np.abs(tinted - shade * pure).sum()

    colour = min(scenes.COLOURS, key=distance)
    towards_paint = scenes.PAINT - tinted
    paint = np.zeros(inner.shape, np.float32)
    paint[inner] = np.clip((pixels - tinted) @ towards_paint / (towards_paint @ towards_paint), 0, 1) > 0.5
    share = paint[inner].mean()
    if share < 0.07:
        return colour, "plain"
    counts = inner.sum(axis=1)
    rows = paint.sum(axis=1)[counts > 0] / counts[counts > 0]
    between = (counts[counts > 0] * (rows - share) ** 2).sum() / inner.sum()
    return colour, "striped" if between / max(share * (1 - share), 1e-6) > 0.45 else "dotted"
