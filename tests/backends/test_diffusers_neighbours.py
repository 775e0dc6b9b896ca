"""What people put on a diffusers U-Net stays in force: processors, IP-Adapter, scales, slicing, chunking, offloading hooks."""

import cases
import guided
import models
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, IPAdapterAttnProcessor2_0
from traces import differences, fingerprint

from lib_accel import AgentAttention, TokenMerging, accelerated

AGENTS = AgentAttention(window=(0, 1))


def account(accelerator):
    return accelerator.report().as_dict()["methods"][0]


def layers(unet, suffix):
    return [module for name, module in unet.named_modules() if name.endswith(suffix)]


class Halving:
    """A processor of somebody's own: not plain attention."""

    def __init__(self, seen):
        self.seen = seen

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        self.seen.append(hidden_states.shape[1])
        return 0.5 * AttnProcessor2_0()(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


def test_a_processor_of_ones_own_runs_as_it_would():
    unet, seen = models.diffusers_unet(), []
    for attn in layers(unet, "attn1"):
        attn.set_processor(Halving(seen))
    plain = models.call(unet)
    seen.clear()
    with accelerated(unet, AGENTS) as accelerator:
        assert torch.equal(models.call(unet), plain)
    assert sorted(seen) == [16] + [64] * 3 + [256] * 3
    assert account(accelerator)["layers_by_effect"] == {}
    assert guided.layers_why(account(accelerator)) == {("processor", "Halving"): 3}


def test_processors_exchanged_while_patched():
    unet = models.diffusers_unet()
    with accelerated(unet, AGENTS) as accelerator:
        enabled = models.call(unet)
        unet.set_attn_processor(AttnProcessor())
        torch.testing.assert_close(models.call(unet), enabled, atol=1e-4, rtol=1e-4)
        unet.set_attn_processor(Halving([]))
        halved = models.call(unet)
    assert guided.layers_why(account(accelerator)) == {("processor", "Halving"): 3}
    assert {type(p) for p in unet.attn_processors.values()} == {Halving}
    assert torch.equal(models.call(unet), halved)


@pytest.mark.parametrize("method", cases.METHODS)
def test_ip_adapter(method):
    """Its processors take a tuple (text, image) in attn2; attn1 keeps a plain processor."""

    class Projection(torch.nn.Module):
        def forward(self, image_embeds):
            return image_embeds

    unet = models.diffusers_unet()
    for attn in layers(unet, "attn2"):
        attn.set_processor(models.lively(IPAdapterAttnProcessor2_0(32, models.WIDTH, num_tokens=(4,), scale=[1.0])))
    unet.encoder_hid_proj = Projection()
    unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    image = [torch.randn(2, 1, 4, models.WIDTH, generator=torch.Generator().manual_seed(0))]

    def run(strength=1.0):
        return models.call(unet, added_cond_kwargs={"image_embeds": [strength * image[0]]})

    plain = run()
    with accelerated(unet, *cases.METHODS[method]) as accelerator:
        enabled = run()
        assert not torch.allclose(enabled, plain, atol=1e-3)
        assert not torch.allclose(enabled, run(0.1), atol=1e-3)
    assert account(accelerator)["failed"] is None
    assert account(accelerator)["stood_down"] == {}
    assert torch.equal(run(), plain)


@pytest.mark.parametrize("method", ["agents", "merging", "everywhere"])
def test_cross_attention_kwargs(method):
    unet = models.diffusers_unet()
    with accelerated(unet, *cases.METHODS[method]) as accelerator:
        enabled = models.call(unet)
        assert torch.equal(models.call(unet, cross_attention_kwargs={"scale": 0.5}), enabled)
    assert account(accelerator)["stood_down"] == {}


def test_an_unknown_cross_attention_keyword_reaches_its_processor():
    """Regional attention and the like: the layer is called as it would have been."""
    seen = []

    class Regional(Halving):
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, region=None):
            seen.append((encoder_hidden_states is None, hidden_states.shape[1], region))
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)

    unet = models.diffusers_unet()
    unet.set_attn_processor(Regional([]))
    plain = models.call(unet, cross_attention_kwargs={"region": "left"})
    seen.clear()
    with accelerated(unet, TokenMerging(merge_crossattn=True)) as accelerator:
        assert torch.equal(models.call(unet, cross_attention_kwargs={"region": "left"}), plain)
    assert {region for *_, region in seen} == {"left"}
    assert [tokens for *_, tokens, _ in seen].count(256) == 6
    assert guided.layers_why(account(accelerator)) == {("processor", "Regional"): 3}


@pytest.mark.parametrize("method", ["agents", "merging", "everywhere"])
def test_sliced_attention(method):
    unet = models.diffusers_unet()
    with accelerated(unet, *cases.METHODS[method]):
        enabled = models.call(unet)
        unet.set_attention_slice("max")
        torch.testing.assert_close(models.call(unet), enabled, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dim", [0, 1])
def test_chunked_feed_forward(dim):
    unet = models.diffusers_unet()
    plain = models.call(unet)
    with accelerated(unet, TokenMerging(merge_mlp=True, merge_attn=False)) as accelerator:
        for block in layers(unet, "transformer_blocks.0"):
            block.set_chunk_feed_forward(1 if dim == 0 else 8, dim)
        torch.testing.assert_close(models.call(unet), plain, atol=1e-4, rtol=1e-4)
    assert guided.layers_why(account(accelerator)) == {"other_tokens": 3}


@pytest.mark.parametrize("place", ["attn1", "attn1.to_q", "attn1.to_out.0", "transformer_blocks.0", ""])
def test_offloading_hooks(place, monkeypatch):
    hooks, seen = pytest.importorskip("accelerate.hooks"), []
    moves = hooks.AlignDevicesHook.pre_forward

    def counted(self, module, *args, **kwargs):
        seen.append(type(module).__name__)
        return moves(self, module, *args, **kwargs)

    monkeypatch.setattr(hooks.AlignDevicesHook, "pre_forward", counted)
    unet = models.diffusers_unet()
    with accelerated(unet, AGENTS) as accelerator:
        free = models.call(unet)
    plain = models.call(unet)
    for module in [unet] if place == "" else layers(unet, place):
        hooks.add_hook_to_module(module, hooks.AlignDevicesHook("cpu"))
    before = fingerprint(unet)
    with accelerated(unet, AGENTS) as accelerator:
        enabled = models.call(unet)
    count = len(seen)
    assert count >= (1 if place == "" else 7)
    if place == "attn1":
        assert account(accelerator)["layers_by_effect"] == {"merging": 3}
        reason = "no agents: the hook AlignDevicesHook of accelerate is on the attention layer itself"
        assert account(accelerator)["stood_down"] == {reason: 3}
        assert not torch.equal(enabled, plain)
    else:
        assert torch.equal(enabled, free)
    assert not differences(before, fingerprint(unet))
    assert torch.equal(models.call(unet), plain)


@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_that_move_the_inputs(when):
    """A pre-hook of somebody else changes what the U-Net gets, whether it was there first or came later."""
    unet = models.diffusers_unet()
    given = models.inputs(dtype=torch.float64)

    def move(module, args, kwargs):
        return tuple(a.float() for a in args), {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}

    with accelerated(unet, AGENTS):
        wanted = models.call(unet, models.inputs())
    if when == "before":
        unet.register_forward_pre_hook(move, with_kwargs=True)
    with accelerated(unet, AGENTS):
        if when == "after":
            unet.register_forward_pre_hook(move, with_kwargs=True)
        assert torch.equal(models.call(unet, given), wanted)


def test_a_hook_that_drops_rows_after_ours():
    """The layers then hold other rows than the call that was announced: nothing is done to them."""
    unet = models.diffusers_unet()
    alone = models.inputs(rows=2)
    for name in vars(alone):
        setattr(alone, name, getattr(alone, name)[:1])
    plain = models.call(unet, alone)
    with accelerated(unet, AGENTS) as accelerator:
        unet.register_forward_pre_hook(lambda module, args: tuple(a[:1] for a in args))
        assert torch.equal(models.call(unet), plain)
    assert guided.layers_why(account(accelerator)) == {"other_tokens": 3}
