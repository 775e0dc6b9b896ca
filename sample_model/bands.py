"""Windows of half a scene's side around its objects: shapes at their true size for a quarter or half of the work.

A scene drawn at half size would be as cheap, but a star of half the size has quite other latents: what was learnt there
about outlines had to be learnt again on whole scenes.
"""

from __future__ import annotations

import numpy as np

from lib_accel.sample import scenes

KINDS = ("single", "row", "column")


def kind_of(scene: scenes.Scene) -> str:
    """Which windows the scene is cut to: a square around one object, or a row or column that holds two."""
    if scene.relation is None:
        return "single"
    return "row" if scene.relation in ("left", "right") else "column"


def window(scene: scenes.Scene, side: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """A random window (rows, columns) of latents with `side` x `side` pixels that holds every object as far as it can.

    It is side / 2 wide; along a row or column of two objects it keeps the whole side.
    """
    kind, whole = kind_of(scene), slice(0, side)
    rows = whole if kind == "column" else _around([(item.y, scenes.SIZES[item.size]) for item in scene.items], side, rng)
    columns = whole if kind == "row" else _around([(item.x, scenes.SIZES[item.size]) for item in scene.items], side, rng)
    return rows, columns


def _around(extents: list, side: int, rng: np.random.Generator) -> slice:
    """A stretch of side / 2 pixels that covers all (centre, radius), where there is room at a random place."""
    first = int(np.ceil(max(centre + radius for centre, radius in extents) * side)) - side // 2
    last = int(np.floor(min(centre - radius for centre, radius in extents) * side))
    if first > last:
        first = last = (first + last) // 2
    start = int(np.clip(rng.integers(first, last + 1), 0, side - side // 2))
    return slice(start, start + side // 2)
