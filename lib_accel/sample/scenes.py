"""The little world that the sample model draws: what a scene is, how it looks, and which scenes training never sees.

A scene is one or two objects (shape, colour, texture, size) on one background. Every picture is computed from the
scene's numbers alone, so the same scene gives the same pixels on every machine. Coordinates are fractions of the
picture's width and height, radii of its shorter side; y grows downwards; colours are RGB in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "ring", "heart", "cross", "moon")
COLOURS = {
    "red": (0.86, 0.10, 0.10),
    "orange": (0.98, 0.52, 0.05),
    "yellow": (0.98, 0.88, 0.12),
    "green": (0.05, 0.50, 0.18),
    "blue": (0.10, 0.22, 0.88),
    "purple": (0.52, 0.12, 0.70),
    "pink": (0.98, 0.48, 0.70),
    "brown": (0.42, 0.22, 0.08),
}
TEXTURES = ("plain", "striped", "dotted")
SIZES = {"small": 0.125, "medium": 0.172, "large": 0.226}
BACKGROUNDS = ("sky", "night", "grass", "sand", "sea", "wall")
RELATIONS = ("left", "right", "above", "below")

PAINT = np.array((0.97, 0.96, 0.94), dtype=np.float32)  # what stripes and dots are painted with
PERIOD = 0.086  # distance between two stripes or two dots
_COLOUR_NAMES = tuple(COLOURS)


@dataclass(frozen=True)
class Item:
    """One object. `x`, `y` are its centre in 0..1, `turn` its rotation in radians."""

    shape: str
    colour: str
    texture: str = "plain"
    size: str = "medium"
    x: float = 0.5
    y: float = 0.5
    turn: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A background with one or two items; `relation` says where the first lies, seen from the second.

    `light` brightens (or darkens) the background by at most 0.03, `horizon` moves its horizon by at most 0.03.
    """

    background: str
    items: tuple
    relation: str | None = None
    light: float = 0.0
    horizon: float = 0.0


def triple_is_held_out(shape: str, colour: str, background: str) -> bool:
    """True for the eighth of all (shape, colour, background) triples that no training scene contains.

    For every shape on every background it is exactly one colour, so each word is still learnt from all the others.
    """
    index = SHAPES.index(shape) + 3 * _COLOUR_NAMES.index(colour) + 5 * BACKGROUNDS.index(background)
    return index % 8 == 0


def is_held_out(scene: Scene) -> bool:
    """True when any item of the scene is a held-out combination; training uses only scenes where this is False."""
    return any(triple_is_held_out(item.shape, item.colour, scene.background) for item in scene.items)


def random_scene(rng: np.random.Generator, held_out: bool = False, count: int | None = None) -> Scene:
    """Draw a scene.

    held_out: False draws scenes for training, True scenes whose every item is a combination that training never sees.
    count: number of items, 1 or 2; None takes two in 60 % of the scenes.
    """
    if count is None:
        count = 2 if rng.random() < 0.6 else 1
    background = str(rng.choice(BACKGROUNDS))
    items = []
    relation = str(rng.choice(RELATIONS, p=(0.4, 0.2, 0.2, 0.2))) if count == 2 else None
    for place in range(count):
        while True:
            shape, colour = str(rng.choice(SHAPES)), str(rng.choice(_COLOUR_NAMES))
            # Two items of one colour cannot be told apart by colour, so a pair always has two.
            repeats = any(colour == other.colour for other in items)
            if not repeats and triple_is_held_out(shape, colour, background) == held_out:
                break
        x, y = _place(rng, relation, place)
        items.append(
            Item(
                shape,
                colour,
                str(rng.choice(TEXTURES, p=(0.5, 0.25, 0.25))),
                str(rng.choice(tuple(SIZES))),
                x,
                y,
                float(rng.uniform(-0.08, 0.08)),
            )
        )
    return Scene(background, tuple(items), relation, float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.03, 0.03)))


def _place(rng: np.random.Generator, relation: str | None, place: int) -> tuple[float, float]:
    """Centre of the item number `place`: near the middle when alone, else on its side of the picture."""
    if relation is None:
        return 0.5 + float(rng.uniform(-0.06, 0.06)), 0.5 + float(rng.uniform(-0.06, 0.06))
    first_is_low = relation in ("left", "above")
    along = (0.26 if (place == 0) == first_is_low else 0.74) + float(rng.uniform(-0.012, 0.012))
    across = 0.5 + float(rng.uniform(-0.04, 0.04))
    return (along, across) if relation in ("left", "right") else (across, along)


def render(scene: Scene, height: int = 256, width: int | None = None) -> np.ndarray:
    """Draw the scene as (height, width, 3) uint8, anti-aliased.

    height, width: pixels, at least 16; without a width the picture is square. Raises ValueError for a word that the
    scene world does not know.
    """
    width = height if width is None else width
    if scene.background not in BACKGROUNDS:
        raise ValueError(f"background is {scene.background!r}; it must be one of {', '.join(BACKGROUNDS)}")
    rows = background_rows(scene.background, height, scene.light, scene.horizon)
    picture = np.repeat(rows[:, None, :], width, axis=1)
    for item in scene.items:
        _paint(picture, item)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def background_rows(name: str, size: int, light: float = 0.0, horizon: float = 0.0) -> np.ndarray:
    """Colours of a background from top to bottom, (size, 3) float32: every background is the same along a row."""
    y = ((np.arange(size, dtype=np.float32) + 0.5) / size)[:, None]

    def blend(top, bottom, t):
        return np.array(top, np.float32) * (1 - t) + np.array(bottom, np.float32) * t

    # An edge softer than a pixel keeps the horizon from stepping.
    below = np.clip((y - 0.36 - horizon) * 40 + 0.5, 0, 1)
    depth = np.clip((y - 0.36 - horizon) / 0.64, 0, 1)
    if name == "sky":
        rows = blend((0.40, 0.64, 0.92), (0.70, 0.85, 0.97), y)
    elif name == "night":
        rows = blend((0.03, 0.04, 0.12), (0.10, 0.10, 0.26), y)
    elif name == "grass":
        rows = blend((0.60, 0.79, 0.95), (0.66, 0.80, 0.44), below) - below * depth * np.array((0.14, 0.12, 0.10), np.float32)
    elif name == "sand":
        rows = blend((0.92, 0.83, 0.66), (0.82, 0.69, 0.49), y)
    elif name == "sea":
        waves = 0.025 * np.sin((y - horizon) * 75) * below
        rows = blend((0.66, 0.74, 0.84), (0.16, 0.40, 0.54), below) - below * depth * 0.12 + waves
    else:
        rows = blend((0.60, 0.60, 0.61), (0.44, 0.44, 0.45), y)
    return np.clip(rows + light, 0, 1).astype(np.float32)


def signed_distance(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Distance to the shape's outline (negative inside) at points (u, v), for a shape of radius 1 around (0, 0).

    It is exact or a close estimate near the outline, which is all that anti-aliasing and shading read.
    """
    length = np.hypot(u, v)
    if shape == "circle":
        return length - 0.92
    if shape == "ring":
        return np.abs(length - 0.70) - 0.26
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.80
    if shape == "cross":
        wide = np.maximum(np.abs(u) - 0.96, np.abs(v) - 0.33)
        tall = np.maximum(np.abs(u) - 0.33, np.abs(v) - 0.96)
        return np.minimum(wide, tall)
    if shape == "moon":
        # A circle with a bite from the right, moved so that the crescent sits in the middle.
        return np.maximum(np.hypot(u - 0.14, v) - 0.95, 0.74 - np.hypot(u - 0.60, v))
    if shape == "triangle":
        corners = [(0.0, -0.95), (0.98, 0.78), (-0.98, 0.78)]
    elif shape == "star":
        angles = -np.pi / 2 + np.arange(10) * np.pi / 5
        radii = np.where(np.arange(10) % 2 == 0, 1.04, 0.46)
        corners = list(zip(radii * np.cos(angles), radii * np.sin(angles)))
    elif shape == "heart":
        t = np.linspace(0, 2 * np.pi, 41)[:-1]
        corners = list(
            zip(0.97 * np.sin(t) ** 3, -(0.0606 * (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) + 0.15))
        )
    else:
        raise ValueError(f"shape is {shape!r}; it must be one of {', '.join(SHAPES)}")
    return _polygon_distance(corners, u, v)


def _polygon_distance(corners: list, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance to a simple polygon: the nearest edge, with the sign of the even-odd rule."""
    nearest = np.full(u.shape, 9.0, dtype=np.float32)
    inside = np.zeros(u.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1]):
        ex, ey = x1 - x0, y1 - y0
        t = np.clip(((u - x0) * ex + (v - y0) * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (u - x0 - t * ex) ** 2 + (v - y0 - t * ey) ** 2)
        if y0 != y1:
            inside ^= ((y0 > v) != (y1 > v)) & (u < ex * (v - y0) / ey + x0)
    return np.where(inside, -1.0, 1.0).astype(np.float32) * np.sqrt(nearest)


def _paint(picture: np.ndarray, item: Item) -> None:
    """Draw one item into `picture`, touching only the pixels around it."""
    if item.colour not in COLOURS or item.texture not in TEXTURES or item.size not in SIZES:
        raise ValueError(f"unknown word in {item}")
    (height, width), radius = picture.shape[:2], SIZES[item.size]
    side = min(height, width)
    reach = radius * 1.1 * side
    low_x, high_x = (int(np.clip(item.x * width + sign * reach, 0, width)) for sign in (-1, 1))
    low_y, high_y = (int(np.clip(item.y * height + sign * reach, 0, height)) for sign in (-1, 1))
    dx = ((np.arange(low_x, high_x, dtype=np.float32) + 0.5 - item.x * width) / side)[None, :]
    dy = ((np.arange(low_y, high_y, dtype=np.float32) + 0.5 - item.y * height) / side)[:, None]
    cos, sin = np.cos(item.turn), np.sin(item.turn)
    u, v = ((dx * cos + dy * sin) / radius).astype(np.float32), ((dy * cos - dx * sin) / radius).astype(np.float32)
    distance = signed_distance(item.shape, u, v)
    pixel = 1 / (side * radius)
    cover = np.clip(0.5 - distance / pixel, 0, 1)[..., None]
    colour = np.array(COLOURS[item.colour], np.float32)
    marks = _marks(item.texture, dx + 0 * dy, dy + 0 * dx, 1 / side)[..., None]
    body = colour * (1 - marks) + PAINT * marks
    # Light falls from the upper left; a darker rim keeps the outline readable on every background.
    light = 1.0 - 0.13 * (u + v)
    rim = 1.0 - 0.30 * np.clip(1 + distance / 0.13, 0, 1) ** 2
    body = np.clip(body * (light * rim)[..., None], 0, 1)
    window = picture[low_y:high_y, low_x:high_x]
    window *= 1 - cover
    window += body * cover


def _marks(texture: str, dx: np.ndarray, dy: np.ndarray, pixel: float) -> np.ndarray:
    """How much paint lies at each point, 0..1: horizontal stripes, a grid of dots, or nothing."""
    if texture == "plain":
        return np.zeros_like(dx)
    if texture == "striped":
        wave = np.abs((dy / PERIOD + 0.5) % 1 - 0.5) * PERIOD
        return np.clip(0.5 + (0.2 * PERIOD - np.abs(PERIOD * 0.5 - wave)) / pixel, 0, 1)
    row = np.floor(dy / PERIOD + 0.5)
    shift = np.where(row % 2 == 0, 0.0, 0.5)  # every other row moves by half, as on a ladybird
    near_x = ((dx / PERIOD + shift + 0.5) % 1 - 0.5) * PERIOD
    near_y = ((dy / PERIOD + 0.5) % 1 - 0.5) * PERIOD
    return np.clip(0.5 + (0.29 * PERIOD - np.hypot(near_x, near_y)) / pixel, 0, 1)
