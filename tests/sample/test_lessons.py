"""The lessons beside the noise: label maps agree with the pictures, windows hold their objects, captions have the right answers."""

import numpy as np
import pytest
import torch

from lib_accel.sample import captions, scenes
from sample_model import bands, labels, latents, reading


def drawn(count=60):
    return [latents.training_scene(0, index) for index in range(count)]


def test_label_maps_say_what_the_picture_shows():
    item = scenes.Item("square", "red", "plain", "large", 0.25, 0.5)
    other = scenes.Item("ring", "blue", "dotted", "small", 0.75, 0.5)
    maps = labels.label_maps(scenes.Scene("night", (item, other), "left"), 32)
    assert maps.shape == (4, 32, 32) and (maps[3] == scenes.BACKGROUNDS.index("night")).all()
    assert tuple(maps[:3, 16, 8]) == (1 + scenes.SHAPES.index("square"), 1, 1)
    assert tuple(maps[:3, 16, 24]) == (0, 0, 0), "a ring has a hole"
    assert set(np.unique(maps[0])) == {0, 1 + scenes.SHAPES.index("square"), 1 + scenes.SHAPES.index("ring")}


def test_label_maps_follow_the_pixels():
    for scene in drawn(12):
        empty = scenes.render(scenes.Scene(scene.background, (), None, scene.light, scene.horizon), 256).astype(int)
        covered = (np.abs(scenes.render(scene, 256).astype(int) - empty).max(-1) > 40).reshape(32, 8, 32, 8).mean((1, 3))
        assert np.corrcoef(covered.ravel(), (labels.label_maps(scene, 32)[0] > 0).ravel())[0, 1] > 0.85


def test_windows_hold_the_objects():
    rng = np.random.default_rng(0)
    for scene in drawn():
        for side in (32, 40):
            rows, columns = bands.window(scene, side, rng)
            expected = {"single": (16, 16), "row": (16, side), "column": (side, 16)}[bands.kind_of(scene)]
            assert (rows.stop - rows.start, columns.stop - columns.start) == expected
        rows, columns = bands.window(scene, 32, rng)
        maps = labels.label_maps(scene, 32)[0]
        kept = (maps[rows, columns] > 0).sum() / (maps > 0).sum()
        assert kept > 0.9


def test_answers_are_those_of_the_caption():
    text = "a large red star left of a blue ring with dots at night"
    background, relation, *items = reading.answers(text)
    assert scenes.BACKGROUNDS[background] == "night" and scenes.RELATIONS[relation - 1] == "left"
    assert items == [scenes.SHAPES.index("star"), 0, 0, 2, scenes.SHAPES.index("ring"), list(scenes.COLOURS).index("blue"), 2, 1]
    assert reading.answers("")[0] == reading.UNSAID and reading.answers("")[2:] == [reading.UNSAID] * 8
    for scene in drawn():
        wanted = captions.parse(captions.caption(scene, np.random.default_rng(1), with_background=True))
        assert wanted.background == scene.background and len(wanted.items) == len(scene.items)


def test_the_right_answer_costs_nothing_and_a_wrong_one_does():
    head = labels.LabelHead()
    maps = torch.from_numpy(labels.label_maps(drawn(1)[0], 16)).long()[None]
    features = torch.zeros(1, labels.FEATURES, 16, 16)
    with torch.no_grad():
        head.project.weight.zero_()
        head.project.bias.zero_()
        even = head.loss(features, maps).item()
    assert even == pytest.approx(np.mean(np.log(list(labels.COUNTS.values()))), rel=1e-5)


def test_listening_costs_the_unet_nothing(monkeypatch):
    from lib_accel.sample import networks

    unet = networks.build_unet().eval()
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 77, 96)
    with torch.no_grad():
        plain = unet(*inputs).sample
        listener = labels.Listener(unet)
        assert torch.equal(unet(*inputs).sample, plain)
    assert listener.features.shape == (1, labels.FEATURES, 8, 8)
