"""The attention that a layer has, however it got there, stays: class-level kernels, instance-level forwards, LoRA."""

import cases
import guided
import models
import pytest
import torch
from traces import differences, fingerprint

from lib_accel import AgentAttention, TokenMerging, accelerated

both = pytest.mark.parametrize("kind", models.BOTH)


def layers(unet, suffix):
    return [module for name, module in unet.named_modules() if name.endswith(suffix)]


def test_a_kernel_installed_by_the_host_while_patched(monkeypatch):
    from ldm.modules.attention import CrossAttention

    unet = models.ldm_unet()
    with accelerated(unet, TokenMerging()):
        slow = models.call(unet)
        seen = []
        monkeypatch.setattr(CrossAttention, "forward", models.host_forward(seen))
        fast = models.call(unet)
        assert sorted(seen) == sorted([128, 256] * 3 + [64, 64] * 3 + [16, 16])
        torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)
        monkeypatch.setattr(CrossAttention, "forward", models.host_forward(seen, 0.5))
        assert not torch.allclose(models.call(unet), fast, atol=1e-3)


def test_a_kernel_installed_by_the_host_stays_where_agents_do_not_compute(monkeypatch):
    from ldm.modules.attention import CrossAttention

    seen = []
    monkeypatch.setattr(CrossAttention, "forward", models.host_forward(seen))
    unet = models.ldm_unet()
    with accelerated(unet, AgentAttention(window=(0, 1))):
        models.call(unet)
    assert sorted(seen) == sorted([256] * 3 + [64, 64] * 3 + [16, 16])


@both
@pytest.mark.parametrize("method", cases.METHODS)
def test_an_instance_level_forward_is_wrapped_and_comes_back(kind, method):
    unet = models.UNETS[kind]()
    without = models.one_pass(unet)
    seen = []
    for part in ("attn1", "attn2"):
        for layer in layers(unet, part):

            def forward(*args, before=layer.forward, part=part, **kwargs):
                seen.append((part, args[0].shape[1]))
                return 0.5 * before(*args, **kwargs)

            layer.forward = forward
    plain = models.one_pass(unet)
    assert not torch.allclose(plain, without, atol=1e-3)
    before = fingerprint(unet)
    seen.clear()
    with accelerated(unet, *cases.METHODS[method]) as accelerator:
        enabled = models.one_pass(unet)
    if kind == "diffusers":
        # Nothing is known of it there: it is given what it would have been given.
        assert ("attn1", 128) not in seen
        assert method == "everywhere" or torch.equal(enabled, plain)
        for told in accelerator.report().as_dict()["methods"]:
            assert ("forward", __name__, "attn1") in guided.layers_why(told)
    elif method == "merging":
        assert seen.count(("attn1", 128)) == 6
        assert ("attn1", 256) not in seen
    assert not differences(before, fingerprint(unet))
    assert torch.equal(models.one_pass(unet), plain)


@both
def test_a_forward_put_on_and_taken_off_while_patched(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, TokenMerging()):
        enabled = models.call(unet)
        for layer in layers(unet, "attn1"):
            layer.forward = lambda *args, before=layer.forward, **kwargs: 0.5 * before(*args, **kwargs)
        assert not torch.allclose(models.call(unet), enabled, atol=1e-3)
        for layer in layers(unet, "attn1"):
            del layer.forward
        assert torch.equal(models.call(unet), enabled)


def test_a_forward_of_the_unet_itself():
    """ControlNet puts its own loop over the stages there, with more arguments, and may run the model twice."""
    unet = models.ldm_unet()
    original = unet.forward

    def forward(x, timesteps=None, context=None, only_mid_control=False, **kwargs):
        original(x, timesteps, context)
        return 2 * original(x, timesteps=timesteps, context=context)

    with accelerated(unet, AgentAttention(window=(0, 1))) as accelerator:
        enabled = models.call(unet)
        unet.forward = forward
        assert torch.equal(models.call(unet, only_mid_control=True), 2 * enabled)
        assert accelerator.report().as_dict()["unet_calls"] == 2


@both
def test_a_unet_called_within_itself(kind):
    """What remains of the outer call runs plain; nothing is left."""
    unet = models.UNETS[kind]()
    before = fingerprint(unet)
    layer, inner = layers(unet, "attn2")[0], []

    def again(*_):
        if not inner:
            inner.append(None)
            inner.append(models.call(unet))

    with accelerated(unet, AgentAttention(window=(0, 1))) as accelerator:
        alone = models.call(unet)
        assert guided.codes(accelerator.report().as_dict()) == []
        handle = layer.register_forward_hook(again)
        assert torch.isfinite(models.call(unet)).all()
        handle.remove()
        assert guided.codes(accelerator.report().as_dict()) == ["call_in_call"]
        assert torch.equal(inner[1], alone)
        assert torch.equal(models.call(unet), alone)
    assert not differences(before, fingerprint(unet))


@both
@pytest.mark.parametrize("projection", ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "ff.net.2"])
def test_lora_by_hook_equals_lora_in_the_weights(kind, projection):
    for methods in (cases.METHODS["agents"], cases.METHODS["everywhere"]):
        unet = models.UNETS[kind]()
        with accelerated(unet, *methods):
            without = models.call(unet)
            folded, handles = [], []
            for layer in layers(unet, projection):
                generator = torch.Generator().manual_seed(5)
                down, up = (torch.randn(4, n, generator=generator) * 0.2 for n in (layer.in_features, layer.out_features))
                handles.append(layer.register_forward_hook(lambda _, args, out, down=down, up=up: out + args[0] @ down.T @ up))
                folded.append((layer, up.T @ down))
            hooked = models.call(unet)
            for handle, (layer, delta) in zip(handles, folded):
                handle.remove()
                layer.weight += delta
            in_weights = models.call(unet)
        assert not torch.allclose(hooked, without, atol=1e-3)
        torch.testing.assert_close(hooked, in_weights, atol=2e-3, rtol=1e-3)


@both
def test_a_lora_module_in_place_of_a_projection(kind):
    """A wrapper as PEFT puts it there: the projection is called as a module, its weight is never read."""

    class Wrapped(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer = base

        def forward(self, x):
            return self.base_layer(x) * 1.5

    unet = models.UNETS[kind]()
    with accelerated(unet, AgentAttention(window=(0, 1))):
        without = models.call(unet)
        for attn in layers(unet, "attn1"):
            attn.to_v = Wrapped(attn.to_v)
        assert not torch.allclose(models.call(unet), without, atol=1e-3)


@pytest.mark.parametrize("method", ["agents", "merging"])
def test_keywords_that_accel_does_not_know_are_passed_on(method, monkeypatch):
    """As sgm's blocks and layers, which take two more arguments; harmless values do not stand in a method's way."""
    from ldm.modules.attention import BasicTransformerBlock, CrossAttention

    seen, more = [], {}
    plain_forward = CrossAttention.forward

    class Block(BasicTransformerBlock):
        def forward(self, x, context=None, additional_tokens=None, n_times_crossframe_attn_in_self=0):
            given = {"additional_tokens": additional_tokens, "n_times_crossframe_attn_in_self": n_times_crossframe_attn_in_self} | more
            x = self.attn1(self.norm1(x), context=None, **given) + x
            x = self.attn2(self.norm2(x), context=context, **given) + x
            return self.ff(self.norm3(x)) + x

    def forward(self, x, context=None, mask=None, **kwargs):
        seen.append((x.shape[1], kwargs))
        return plain_forward(self, x, context, mask)

    monkeypatch.setattr(CrossAttention, "forward", forward)
    unet = models.ldm_unet()
    for block in layers(unet, "transformer_blocks.0"):
        block.__class__ = Block
    with accelerated(unet, *cases.METHODS[method]) as accelerator:
        models.call(unet)
        assert all(set(kwargs) == {"additional_tokens", "n_times_crossframe_attn_in_self"} for _, kwargs in seen)
        assert [tokens for tokens, _ in seen].count(256) == 3
        assert accelerator.report().as_dict()["methods"][0]["layers"] == 3
        more["additional_tokens"] = torch.zeros(2, 1, 32)
        plain = models.call(unet)
    assert guided.layers_why(accelerator.report().as_dict()["methods"][0])[("called_with", "additional_tokens")] == 3
    assert torch.equal(plain, models.call(unet))
