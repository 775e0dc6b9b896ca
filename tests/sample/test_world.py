"""The scene world: the same scene gives the same picture, captions say what is there, the checker sees it."""

import numpy as np
import pytest

from lib_accel.sample import captions, checker, scenes


def some_scenes(number, seed=0, **choice):
    rng = np.random.default_rng(seed)
    return [scenes.random_scene(rng, **choice) for _ in range(number)]


def test_the_same_seed_gives_the_same_pictures():
    first, second = some_scenes(6), some_scenes(6)
    assert first == second
    for one, other in zip(first, second):
        assert np.array_equal(scenes.render(one), scenes.render(other))
    assert some_scenes(6, seed=1) != first


def test_the_world_is_as_large_as_promised():
    assert len(scenes.SHAPES) >= 8 and len(scenes.COLOURS) >= 8 and len(scenes.BACKGROUNDS) >= 6
    assert len(scenes.TEXTURES) == 3 and len(scenes.SIZES) == 3


def test_pictures_are_anti_aliased_and_shaded():
    scene = scenes.Scene("wall", (scenes.Item("circle", "red", size="large"),))
    picture = scenes.render(scene)
    assert picture.shape == (256, 256, 3) and picture.dtype == np.uint8
    assert len(np.unique(picture[100:156, 100:156, 0])) > 20  # shading: no flat disc
    assert abs(scenes.render(scene, 128).mean() - picture.mean()) < 1


def test_unknown_words_get_a_sentence():
    with pytest.raises(ValueError, match="background is 'moonbase'"):
        scenes.render(scenes.Scene("moonbase", ()))
    with pytest.raises(ValueError, match="shape is 'blob'"):
        scenes.render(scenes.Scene("sky", (scenes.Item("blob", "red"),)))
    with pytest.raises(ValueError, match="unknown word"):
        scenes.render(scenes.Scene("sky", (scenes.Item("circle", "mauve"),)))


def test_training_never_sees_a_held_out_combination():
    for scene in some_scenes(400):
        assert not scenes.is_held_out(scene)
    for scene in some_scenes(200, held_out=True):
        assert all(scenes.triple_is_held_out(item.shape, item.colour, scene.background) for item in scene.items)
    share = np.mean(
        [
            scenes.triple_is_held_out(shape, colour, background)
            for shape in scenes.SHAPES
            for colour in scenes.COLOURS
            for background in scenes.BACKGROUNDS
        ]
    )
    assert share == 1 / 8


@pytest.mark.parametrize("held_out", [False, True])
def test_a_caption_says_what_the_scene_shows(held_out):
    rng = np.random.default_rng(4)
    for scene in some_scenes(300, seed=2, held_out=held_out):
        wanted = captions.parse(captions.caption(scene, rng, with_background=True))
        assert wanted.background == scene.background
        assert wanted.items == tuple((item.shape, item.colour, item.texture, item.size) for item in scene.items)
        # "and" and "next to" say nothing about places; every other wording does.
        assert wanted.relation == scene.relation or (wanted.relation is None and scene.relation == "left")


def test_captions_vary():
    rng = np.random.default_rng(0)
    scene = some_scenes(1, count=2)[0]
    assert len({captions.caption(scene, rng) for _ in range(40)}) > 15


def test_parsing_passes_over_what_it_does_not_know():
    wanted = captions.parse("((masterpiece)), a small dragon, (RED:1.3) star with dots :: on green grass, 8k")
    assert wanted == captions.Wanted("grass", (("star", "red", "dotted", "small"),), None)
    assert captions.parse("") == captions.Wanted(None, (), None)


def test_the_checker_is_right_on_rendered_scenes():
    rng, right, details, objects = np.random.default_rng(5), 0, 0, 0
    drawn = some_scenes(150, seed=6) + some_scenes(50, seed=7, held_out=True)
    for scene in drawn:
        verdict = checker.judge(scenes.render(scene), captions.parse(captions.caption(scene, rng, True)))
        right += verdict.right
        details += sum(verdict.textures) + sum(verdict.sizes)
        objects += len(scene.items)
    assert right >= 0.99 * len(drawn)
    assert details >= 0.98 * 2 * objects


def test_the_checker_survives_blur_and_noise():
    from PIL import Image, ImageFilter

    rng, right, drawn = np.random.default_rng(5), 0, some_scenes(60, seed=8)
    for scene in drawn:
        soft = Image.fromarray(scenes.render(scene)).filter(ImageFilter.GaussianBlur(2))
        noisy = np.clip(np.asarray(soft) + rng.normal(0, 4, (256, 256, 3)), 0, 255).astype(np.uint8)
        right += checker.judge(noisy, captions.parse(captions.caption(scene, rng, True))).right
    assert right >= 0.95 * len(drawn)


def test_the_checker_says_no():
    """Every single change of what is asked for must turn the verdict."""
    scene = scenes.Scene("sand", (scenes.Item("star", "blue", x=0.26), scenes.Item("ring", "red", x=0.74)), "left")
    picture = scenes.render(scene)
    assert checker.judge(picture, captions.parse("a blue star left of a red ring on sand")).right
    for prompt in (
        "a blue star left of a red ring on grass",
        "a blue star right of a red ring on sand",
        "a red star left of a blue ring on sand",
        "a blue moon left of a red ring on sand",
        "a green star left of a red ring on sand",
    ):
        assert not checker.judge(picture, captions.parse(prompt)).right, prompt
    alone = scenes.render(scenes.Scene("sand", scene.items[:1]))
    assert not checker.judge(alone, captions.parse("a blue star and a red ring on sand")).objects


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((256, 256, 3), np.uint8),
        np.full((64, 96, 3), 255, np.uint8),
        np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8),
    ],
)
def test_the_checker_never_fails_on_odd_pictures(picture):
    verdict = checker.judge(picture, captions.parse("a red star on grass"))
    assert not verdict.right


@pytest.mark.parametrize(("height", "width"), [(512, 512), (384, 512), (256, 192)])
def test_the_checker_sees_pictures_of_any_size_and_aspect(height, width):
    rng = np.random.default_rng(5)
    right = []
    for scene in some_scenes(24, seed=6):
        wanted = captions.parse(captions.caption(scene, rng, with_background=True))
        verdict = checker.judge(scenes.render(scene, height, width), wanted)
        right.append(verdict.right and all(verdict.textures) and all(verdict.sizes))
    assert sum(right) >= 23
