"""Captions that differ from a scene's own in one thing: what a U-Net has to tell apart.

Of two objects it easily draws the colour of one on both, or either where the other should be. In the error of a row that hardly counts;
in the difference between the predictions for two such captions it is all there is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lib_accel.sample import captions, scenes

EXCHANGED = 0.5  # part of the rivals of two objects in which these stand in each other's place
_CHOICES = {"colour": tuple(scenes.COLOURS), "shape": scenes.SHAPES, "texture": scenes.TEXTURES, "size": tuple(scenes.SIZES)}
_TRAITS, _SHARES = tuple(_CHOICES), (0.35, 0.35, 0.15, 0.15)


def rival(scene: scenes.Scene, rng: np.random.Generator) -> scenes.Scene:
    """The scene with its two objects exchanged, or with another colour, shape, texture or size of one object.

    With two objects that is most often the other's, if they differ in it.
    """
    if len(scene.items) == 2 and rng.random() < EXCHANGED:
        return replace(scene, items=scene.items[::-1])
    trait = str(rng.choice(_TRAITS, p=_SHARES))
    which = int(rng.integers(len(scene.items)))
    item, other = scene.items[which], scene.items[1 - which] if len(scene.items) == 2 else None
    if other is not None and getattr(other, trait) != getattr(item, trait) and rng.random() < 0.7:
        value = getattr(other, trait)
    else:
        value = str(rng.choice([value for value in _CHOICES[trait] if value != getattr(item, trait)]))
    items = list(scene.items)
    items[which] = replace(item, **{trait: value})
    return replace(scene, items=tuple(items))


def caption_and_rival(scene: scenes.Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A caption of ``scene``, and one of a `rival` in the same phrases as far as it goes."""
    seed = int(rng.integers(1 << 31))
    other = rival(scene, rng)
    return tuple(captions.caption(what, np.random.default_rng(seed)) for what in (scene, other))
