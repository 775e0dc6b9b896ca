"""ToDo: queries whole, keys and values from a coarser grid, through the layer's own forward."""

import pytest
import torch
from models import UNETS, call, inputs, ldm_unet
from traces import differences, fingerprint

from lib_accel import SettingError, TokenDownsampling, TokenMerging, accelerated


def reference(layer, x, h, w, factor):
    """Materialised softmax attention in float64 on down-sampled keys."""
    layer = layer.double()
    x = x.double()
    kept = x.unflatten(1, (h, w))[:, ::factor, ::factor].flatten(1, 2)
    q, k, v = (t.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for t in (layer.to_q(x), layer.to_k(kept), layer.to_v(kept)))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return layer.to_out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("h", "w", "factor"), [(16, 16, 2), (8, 24, 2), (16, 16, 3)])
def test_first_layer_equals_a_float64_reference(h, w, factor):
    unet, seen = ldm_unet(), []
    layer = unet.input_blocks[1][1].transformer_blocks[0].attn1
    layer.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
    with accelerated(unet, TokenDownsampling(factor=factor)):
        call(unet, inputs(h=h, w=w))
    tokens, out = seen[0]
    torch.testing.assert_close(out.double(), reference(layer, tokens, h, w, factor), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", UNETS)
def test_plain_enabled_disabled(name):
    unet = UNETS[name]()
    before, plain = fingerprint(unet), call(unet)
    with accelerated(unet, TokenDownsampling()) as accelerator:
        assert not torch.equal(call(unet), plain)
    account = accelerator.report().as_dict()["methods"][0]
    finest = min(site.level for site in accelerator.sites)
    assert account["layers_by_effect"] == {"downsampling": sum(site.level == finest for site in accelerator.sites)}
    assert torch.equal(call(unet), plain) and not differences(before, fingerprint(unet))


def test_factor_per_level():
    unet = ldm_unet()
    for config, layers in ((TokenDownsampling(1, 2), 1), (TokenDownsampling(2, 1), 0), (TokenDownsampling(2, 2), None)):
        with accelerated(unet, config) as accelerator:
            call(unet)
        by_level = [site.level for site in accelerator.sites]
        expected = by_level.count(layers) if layers is not None else by_level.count(0) + by_level.count(1)
        assert accelerator.report().as_dict()["methods"][0]["layers"] == expected


def test_factor_one_is_plain():
    unet = ldm_unet()
    plain = call(unet)
    with accelerated(unet, TokenDownsampling(factor=1)):
        assert torch.equal(call(unet), plain)


def test_goes_together_with_merging_which_then_merges_the_queries():
    unet, seen = ldm_unet(), []
    with accelerated(unet, TokenMerging(ratio=0.5), TokenDownsampling(factor=2)) as accelerator:
        layer = unet.input_blocks[1][1].transformer_blocks[0].attn1
        for projection in (layer.to_q, layer.to_k, layer.to_v):
            projection.register_forward_hook(lambda _, args, output: seen.append(args[0].shape[1]))
        call(unet)
    assert seen == [128, 64, 64]
    merging, downsampling = accelerator.report().as_dict()["methods"]
    assert merging["layers"] == downsampling["layers"] > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"factor": 0}, ["factor", "0", "1 to 8"]), ({"factor": 2.5}, ["factor", "2.5"]), ({"deeper_factor": "a"}, ["deeper_factor", "'a'"])],
)
def test_bad_settings_get_a_sentence(settings, words):
    with pytest.raises(SettingError) as caught:
        TokenDownsampling(**settings)
    assert all(word in str(caught.value) for word in words)
