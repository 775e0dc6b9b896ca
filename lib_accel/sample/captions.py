"""Words for scenes, and back: one scene has many captions, and a caption says which scene a picture must show."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from . import scenes

_BACKGROUND_PHRASES = {
    "sky": ("in the sky", "against the sky", "in front of the sky"),
    "night": ("at night", "in the night", "in the dark night"),
    "grass": ("on grass", "on the grass", "on green grass"),
    "sand": ("on sand", "on the sand", "on yellow sand"),
    "sea": ("by the sea", "at the sea", "in front of the sea"),
    "wall": ("on a wall", "on a gray wall", "in front of a wall"),
}
_OPENINGS = ("a picture of ", "a photo of ", "a drawing of ", "an image of ", "there is ")
_RELATION_PHRASES = {
    "left": ("and", "and", "next to", "left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "on top of"),
    "below": ("below", "under"),
}
_RELATION_WORDS = {"left": "left", "right": "right", "above": "above", "top": "above", "below": "below", "under": "below"}
_NOISE = (
    "masterpiece",
    "best quality",
    "detailed",
    "beautiful",
    "sharp",
    "4k",
    "high resolution",
    "cute",
    "nice",
    "art",
    "very",
    "colorful",
    "style",
    "trending",
    "render",
    "illustration",
)


@dataclass(frozen=True)
class Wanted:
    """What a caption asks for. None means that it leaves the choice open; `items` are (shape, colour, texture, size)."""

    background: str | None
    items: tuple
    relation: str | None


def describe_item(item: scenes.Item, rng: np.random.Generator) -> str:
    """Name one item with its article. Plain and medium are what is meant when nothing is said."""
    size = item.size if item.size != "medium" or rng.random() < 0.15 else ""
    texture = item.texture if item.texture != "plain" or rng.random() < 0.15 else ""
    behind = ""
    if item.texture != "plain" and rng.random() < 0.25:
        texture, behind = "", " with stripes" if item.texture == "striped" else " with dots"
    adjectives = [size, item.colour, texture] if rng.random() < 0.8 else [size, texture, item.colour]
    words = " ".join(word for word in [*adjectives, item.shape] if word)
    if rng.random() < 0.1:
        return words + behind
    return ("an " if words[0] in "aeiou" else "a ") + words + behind


def caption(scene: scenes.Scene, rng: np.random.Generator, with_background: bool | None = None) -> str:
    """One of the many captions of a scene.

    with_background: whether it names the background; None leaves it out now and then.
    """
    if with_background is None:
        with_background = rng.random() >= 0.06
    described = [describe_item(item, rng) for item in scene.items]
    where = str(rng.choice(_BACKGROUND_PHRASES[scene.background])) if with_background else ""
    if len(described) == 1:
        text = described[0]
    elif scene.relation == "left" and rng.random() < 0.12:
        text = f"on the left {described[0]}, on the right {described[1]}"
    else:
        text = f"{described[0]} {rng.choice(_RELATION_PHRASES[scene.relation])} {described[1]}"
    style = rng.random()
    if style < 0.3:
        text = str(rng.choice(_OPENINGS)) + text
    if not where:
        return text
    if style > 0.9:
        return f"{where}, {text}"
    return f"{text}, {where}" if style > 0.7 else f"{text} {where}"


def disturb(text: str, rng: np.random.Generator) -> str:
    """Add words that mean nothing here, so that the model learns to draw past what it does not know."""
    extra = []
    for _ in range(int(rng.integers(1, 4))):
        if rng.random() < 0.5:
            extra.append(str(rng.choice(_NOISE)))
        elif rng.random() < 0.7:
            extra.append("".join(chr(97 + letter) for letter in rng.integers(0, 26, rng.integers(2, 9))))
        else:
            extra.append("".join(chr(int(code)) for code in rng.integers(0x21, 0x3000, rng.integers(1, 4))))
    parts = [text, *extra]
    if rng.random() < 0.3:
        parts.reverse()
    return (", " if rng.random() < 0.7 else " ").join(parts)


def parse(text: str) -> Wanted:
    """Read what a prompt asks for; words that the scene world does not know are passed over."""
    background, relation, items, pending = None, None, [], {}
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in scenes.COLOURS:
            pending["colour"] = word
        elif word in scenes.TEXTURES:
            pending["texture"] = word
        elif word in scenes.SIZES:
            pending["size"] = word
        elif word in scenes.SHAPES:
            items.append((word, pending.get("colour"), pending.get("texture", "plain"), pending.get("size", "medium")))
            pending = {}
        elif word in ("stripes", "dots") and items:
            items[-1] = (*items[-1][:2], "striped" if word == "stripes" else "dotted", items[-1][3])
        elif word in scenes.BACKGROUNDS:
            # "green grass": the adjective belongs to the background, not to the next object.
            background, pending = background or word, {}
        elif word in _RELATION_WORDS and relation is None:
            relation = _RELATION_WORDS[word]
    return Wanted(background, tuple(items), relation if len(items) == 2 else None)


def corpus(count: int = 4000, seed: int = 0) -> list:
    """Captions to build the tokenizer from: scenes of the training half with all their wordings."""
    rng = np.random.default_rng(seed)
    return [caption(scenes.random_scene(rng), rng) for _ in range(count)] + list(_NOISE)


def held_out_prompts(count: int, seed: int = 0) -> list:
    """`count` captions, one object and two by turns, in which every object is a combination that training never saw."""
    rng = np.random.default_rng((seed, 13))
    drawn = [scenes.random_scene(rng, held_out=True, count=1 + index % 2) for index in range(count)]
    return [caption(scene, rng, with_background=True) for scene in drawn]
