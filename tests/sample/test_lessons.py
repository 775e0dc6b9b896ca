"""The lessons beside the noise: label maps agree with the pictures, windows hold their objects, captions have the right answers."""

import numpy as np
import pytest
import torch

from lib_accel.sample import captions, scenes
from sample_model import attention, bands, batches, labels, latents, reading


def drawn(count=60):
    return [latents.training_scene(0, index) for index in range(count)]


def test_label_maps_say_what_the_picture_shows():
    item = scenes.Item("square", "red", "plain", "large", 0.25, 0.5)
    other = scenes.Item("ring", "blue", "dotted", "small", 0.75, 0.5)
    maps = labels.label_maps(scenes.Scene("night", (item, other), "left"), 32, 32)
    assert maps.shape == (4, 32, 32) and (maps[3] == scenes.BACKGROUNDS.index("night")).all()
    assert tuple(maps[:3, 16, 8]) == (1 + scenes.SHAPES.index("square"), 1, 1)
    assert tuple(maps[:3, 16, 24]) == (0, 0, 0), "a ring has a hole"
    assert set(np.unique(maps[0])) == {0, 1 + scenes.SHAPES.index("square"), 1 + scenes.SHAPES.index("ring")}


def test_label_maps_follow_the_pixels():
    for scene in drawn(12):
        empty = scenes.render(scenes.Scene(scene.background, (), None, scene.light, scene.horizon), 256).astype(int)
        covered = (np.abs(scenes.render(scene, 256).astype(int) - empty).max(-1) > 40).reshape(32, 8, 32, 8).mean((1, 3))
        assert np.corrcoef(covered.ravel(), (labels.label_maps(scene, 32, 32)[0] > 0).ravel())[0, 1] > 0.85


def test_windows_hold_the_objects():
    rng = np.random.default_rng(0)
    for scene in drawn():
        for side in (32, 40):
            rows, columns = bands.window(scene, side, rng)
            expected = {"single": (side // 2, side // 2), "row": (side // 2, side), "column": (side, side // 2)}[bands.kind_of(scene)]
            assert (rows.stop - rows.start, columns.stop - columns.start) == expected
        rows, columns = bands.window(scene, 32, rng)
        maps = labels.label_maps(scene, 32, 32)[0]
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
    head = labels.LabelHead(64)
    maps = torch.from_numpy(labels.label_maps(drawn(1)[0], 16, 16)).long()[None]
    features = torch.zeros(1, 64, 16, 16)
    with torch.no_grad():
        head.project.weight.zero_()
        head.project.bias.zero_()
        even = head.loss(features, maps).item()
    assert even == pytest.approx(np.mean(np.log(list(labels.COUNTS.values()))), rel=1e-5)


@pytest.mark.parametrize(("shape", "millions"), [("small", 4.8), ("sd15", 8.7)])
def test_listening_costs_the_unet_nothing(shape, millions):
    from lib_accel.sample import networks

    unet = networks.build_unet(shape).eval()
    assert sum(parameter.numel() for parameter in unet.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([5]), torch.randn(1, 77, 96)
    with torch.no_grad():
        plain = unet(*inputs).sample
        listener = labels.Listener(unet)
        assert torch.equal(unet(*inputs).sample, plain)
    assert listener.features.shape == (1, labels.features_of(unet), 8, 8)


def test_maps_and_pictures_of_another_aspect_agree():
    for scene in drawn(12):
        empty = scenes.render(scenes.Scene(scene.background, (), None, scene.light, scene.horizon), 256, 192).astype(int)
        picture = scenes.render(scene, 256, 192)
        assert picture.shape == (256, 192, 3)
        covered = (np.abs(picture.astype(int) - empty).max(-1) > 40).reshape(32, 8, 24, 8).mean((1, 3))
        assert np.corrcoef(covered.ravel(), (labels.label_maps(scene, 32, 24)[0] > 0).ravel())[0, 1] > 0.8


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.6, 1.0])
def test_training_moves_from_windows_to_large_scenes(progress):
    rng = np.random.default_rng(0)
    seconds = dict.fromkeys(batches.KINDS, 0.0)
    for _ in range(3000):
        kind = batches.draw_kind(rng, progress)
        seconds[kind] += kind.cost
    shares = {kind: value / sum(seconds.values()) for kind, value in seconds.items()}
    for kind, share in shares.items():
        assert share == pytest.approx(np.interp(progress, batches.STAGES, kind.share), abs=0.05)


def test_no_scene_lies_in_two_buckets():
    numbers = [number for first, count in batches.BUCKETS.values() for number in range(first, first + count)]
    assert len(numbers) == len(set(numbers))


def attend(query, key, value, dtype=torch.float64, ours=False):
    """Attention of these tensors (rows, tokens, 2 heads x channels) in ``dtype``, PyTorch's or ours, and its slopes for a fixed one of the
    output."""
    given = [tensor.detach().to(dtype).requires_grad_() for tensor in (query, key, value)]
    if ours:
        out = attention._attend(*given, 2)
    else:
        parts = (tensor.unflatten(-1, (2, -1)).transpose(1, 2) for tensor in given)
        out = torch.nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
    slope = 1e-6 * torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (out * slope.to(out.dtype)).sum().backward()
    return [tensor.detach().double() for tensor in (out, *(one.grad for one in given))]


def far(found, expected):
    """How far tensors are from others, of their size: the largest of all."""
    return max(((one - other).norm() / other.norm()).item() for one, other in zip(found, expected))


@pytest.mark.parametrize("sharp", [1, 4])
@pytest.mark.parametrize(("width", "queries", "keys"), [(4, 100, 100), (8, 33, 77), (8, 64, 7), (16, 40, 77)])
def test_the_compiled_attention_is_the_plain_one_forwards_and_backwards(width, queries, keys, sharp):
    torch.manual_seed(0)
    given = [scale * torch.randn(3, count, 2 * width) for count, scale in ((queries, sharp), (keys, sharp), (keys, 1))]
    expected = attend(*given)
    assert far(attend(*given, torch.float32, ours=True), expected) < 1e-5
    # Half precision on processors that compute in it: about as far as PyTorch's bfloat16, in whose place training has it.
    rounded = far(attend(*given, torch.bfloat16), expected)
    assert far(attend(*given, torch.bfloat16, ours=True), expected) < 1.5 * rounded
    if attention.compiled(attention.NARROW) is None:
        pytest.skip("needs a C++ compiler")


@pytest.mark.parametrize(("tokens", "kept"), [(256, 256), (1024, 512), (1536, 768), (3072, 768), (4096, 1024)])
def test_large_self_attention_is_thinned_to_other_keys_each_time(tokens, kept):
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)
    layer, seen = Attention(8, heads=2, dim_head=4), []
    layer.to_k.register_forward_pre_hook(lambda module, given: seen.append(given[0][0, :, 0].tolist()))
    places = torch.arange(float(tokens)).view(1, -1, 1).expand(2, -1, 8)
    layer.set_processor(attention.TrainingAttention(thinned=True))
    for _ in range(2):
        assert layer(places).shape == places.shape
    layer(places, encoder_hidden_states=places[:, :7])
    first, second, words = seen
    assert len(words) == 7
    # One of every two or four neighbours, in their order.
    assert [int(place * kept / tokens) for place in first] == list(range(kept)) and (first != second) is (kept < tokens)
    layer.set_processor(attention.TrainingAttention())
    layer(places)
    assert seen[-1] == places[0, :, 0].tolist()
