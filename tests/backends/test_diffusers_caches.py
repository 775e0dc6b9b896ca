"""Caches of diffusers' own that return what a layer returned before: its tokens must stay the same, so nothing merges around them."""

import guided
import models
import pytest
import torch
from traces import differences, fingerprint

from lib_accel import AgentAttention, TGate, TokenDownsampling, TokenMerging, accelerated

hooks = pytest.importorskip("diffusers.hooks")
METHODS = {
    "merging": TokenMerging(ratio=0.5, window=(0, 0.5)),
    "agents": AgentAttention(window=(0, 0.5)),
    "downsampling": TokenDownsampling(factor=2, window=(0, 0.5)),
}


def pyramid(unet, part):
    skip = {"spatial_attention_block_skip_range": 2} if part == "attn1" else {"cross_attention_block_skip_range": 2}
    hooks.apply_pyramid_attention_broadcast(unet, hooks.PyramidAttentionBroadcastConfig(current_timestep_callback=lambda: 500, **skip))


def faster(unet, part):
    """diffusers puts this one on attention classes that its U-Nets do not have; here it is put on them by hand."""
    from diffusers.hooks.faster_cache import FasterCacheBlockHook

    for name, module in unet.named_modules():
        if name.endswith(part):
            hook = FasterCacheBlockHook(2, (-1, -1), True, lambda _: 0.5, lambda: 500)
            hooks.HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, "faster_cache_block")


CACHES = {"pyramid attention broadcast": pyramid, "FasterCache": faster}


def cached(cache, part="attn1"):
    unet = models.diffusers_unet()
    CACHES[cache](unet, part)
    return unet


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cache", CACHES)
def test_self_attention_that_is_kept_is_left_alone(cache, method):
    """Also where a window ends between two calls: what was kept is of as many tokens as are wanted."""
    plain = models.one_pass(cached(cache), (999, 799, 599, 399, 199))
    unet = cached(cache)
    before = fingerprint(unet)
    with accelerated(unet, METHODS[method], auto=False) as accelerator:
        out = models.one_pass(unet, (999, 799, 599, 399, 199))
    assert torch.equal(out, plain)
    ((code, name, *where), layers), *more = guided.layers_why(accelerator.report().as_dict()["methods"][0]).items()
    assert (code, where, layers, more) == ("hook", ["diffusers", "attn1"], 3, []) and cache.lower().split()[0] in name.replace("_", "")
    assert differences(before, fingerprint(unet)) == set()


def test_layers_that_are_not_kept_are_served():
    unet = cached("pyramid attention broadcast", "attn2")
    plain = models.one_pass(cached("pyramid attention broadcast", "attn2"))
    with accelerated(unet, METHODS["merging"], TGate(gate_step=1), auto=False) as accelerator:
        out = models.one_pass(unet)
    merging, gate = accelerator.report().as_dict()["methods"]
    assert merging["layers_by_effect"] == {"merging": 3} and gate["layers"] == 0
    assert guided.layers_why(gate) == {("hook", "pyramid_attention_broadcast", "diffusers", "attn2"): 7}
    assert not torch.equal(out, plain)
