"""How a source and its edits are laid out in U-Net batches. Every batch carries the source again; nothing is kept between batches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """An edited picture in a batch. number: of the edit in the caller's list. image, source: pictures of the batch."""

    number: int
    image: int
    source: int


@dataclass(frozen=True)
class Batch:
    """Picture 0 is the source. images: how many pictures there are. followers: (picture, the one whose latents it takes every step)."""

    places: tuple[Place, ...]
    images: int
    followers: tuple[tuple[int, int], ...] = ()


def batches(edits: int, at_once: int, shared: bool = False) -> list[Batch]:
    """``edits`` edited pictures in batches of at most ``at_once`` pictures (2 at least; 3 when shared).

    shared: every edit has a source of its own that follows the edit's latents, so that what is taken is the source prompt's view of the
    edited picture (CrossAttentionControl); picture 0 is the undisturbed source.
    """
    size = (at_once - 1) // 2 if shared else at_once - 1
    out = []
    for first in range(0, edits, size):
        numbers = range(first, min(first + size, edits))
        if not shared:
            out.append(Batch(tuple(Place(number, 1 + at, 0) for at, number in enumerate(numbers)), 1 + len(numbers)))
            continue
        places = tuple(Place(number, 2 + 2 * at, 1 + 2 * at) for at, number in enumerate(numbers))
        out.append(Batch(places, 1 + 2 * len(numbers), tuple((place.source, place.image) for place in places)))
    return out
