"""Captions that differ from a scene's own in one thing."""

from dataclasses import replace

import numpy as np
import pytest

from lib_accel.sample import captions, scenes
from sample_model import batches, rivals, train_diffusion

TRAITS = ("shape", "colour", "texture", "size")


def traits_of(scene):
    return [tuple(getattr(item, trait) for trait in TRAITS) for item in scene.items]


@pytest.mark.parametrize("count", [1, 2])
def test_a_rival_differs_in_one_thing(count):
    rng = np.random.default_rng(count)
    exchanged = changed = 0
    for _ in range(300):
        scene = scenes.random_scene(rng, count=count)
        other = rivals.rival(scene, rng)
        assert replace(other, items=scene.items) == scene
        ours, theirs = traits_of(scene), traits_of(other)
        different = sum(mine != his for one, another in zip(ours, theirs) for mine, his in zip(one, another))
        if different == 1:
            changed += 1
        else:
            assert theirs == ours[::-1]
            exchanged += 1
    assert changed > 100 and (exchanged > 60 if count == 2 else exchanged == 0)


def test_both_captions_say_what_their_scenes_are():
    rng = np.random.default_rng(3)
    for _ in range(200):
        scene = scenes.random_scene(rng)
        text, other = rivals.caption_and_rival(scene, rng)
        assert text != other
        ours, theirs = captions.parse(text), captions.parse(other)
        assert list(ours.items) == traits_of(scene)
        assert theirs.items != ours.items and theirs.relation == ours.relation and theirs.background == ours.background


def test_pairs_are_empty_captions_and_rivals():
    rng = np.random.default_rng(5)
    drawn = [scenes.random_scene(rng) for _ in range(200)]
    texts = train_diffusion.batch_of_captions(drawn, rng, 150)
    assert len(texts) == 350
    paired = texts[200:]
    share = sum(text != "" for text in paired) / 150
    assert share == pytest.approx(train_diffusion.RIVAL_SHARE, abs=0.1)
    assert all(text != own for own, text in zip(texts, paired) if text)
    assert len(train_diffusion.batch_of_captions(drawn, rng)) == 200


def test_most_whole_scenes_show_two_objects():
    scenes_here = 400
    bucket = batches.Bucket(np.zeros((scenes_here, 4, 8, 8), np.float16), 0, 0)
    rng = np.random.default_rng(0)
    counts = [len(scene.items) for _ in range(200) for scene in bucket.draw(rng, 16 * 64, False)[0]]
    assert counts.count(1) / len(counts) == pytest.approx(batches.ALONE, abs=0.03)
