"""Nothing stays on the model: not after removal, not between U-Net calls, not after errors and interrupts."""

import cases
import models
import pytest
import torch
from traces import differences, fingerprint

from lib_accel import TokenMerging, accelerated, apply_patch, is_patched, remove_patch

both = pytest.mark.parametrize("kind", models.BOTH)
every_kind = pytest.mark.parametrize("kind", [*models.BOTH, "pixart"])
every_method = pytest.mark.parametrize("method", cases.EVERY)


class Trap:
    """A forward hook that raises ``error`` when a layer deep in the U-Net has run, ``times`` times, after ``calls`` good ones."""

    def __init__(self, unet, error, times=1, calls=0):
        self.error, self.left, self.calls = error, times, calls
        places = ("middle_block.1.proj_out", "mid_block.attentions.0.proj_out", "transformer_blocks.1.ff")
        layers = dict(unet.named_modules())
        self.handle = next(layers[place] for place in places if place in layers).register_forward_hook(self)

    def __call__(self, *_):
        if self.calls:
            self.calls -= 1
        elif self.left:
            self.left -= 1
            raise self.error


def wrapped_layers(unet):
    return [name for name, module in unet.named_modules() if "forward" in vars(module)]


@pytest.mark.parametrize("kind", models.ALL)
@every_method
def test_removed(kind, method):
    unet = models.ALL[kind]()
    before = fingerprint(unet)
    with accelerated(unet, *cases.EVERY[method]) as accelerator:
        cases.one_pass(unet, method, accelerator)
    assert not differences(before, fingerprint(unet))
    accelerator.remove()
    assert not differences(before, fingerprint(unet))


@every_kind
@every_method
def test_between_calls_only_two_hooks_and_the_copy_helper_on_the_unet(kind, method):
    """And one forward that passes on, where whole calls may be served: hooks cannot keep a module from running."""
    unet = models.ALL[kind]()
    before = fingerprint(unet)
    attributes = set(vars(unet))
    with accelerated(unet, *cases.EVERY[method]) as accelerator:
        for _ in range(2):
            assert differences(before, fingerprint(unet)) == {""}
            assert set(vars(unet)) - attributes == {"__getstate__", *(["forward"] if cases.serves_calls(method) else [])}
            assert (len(unet._forward_pre_hooks), len(unet._forward_hooks)) == (1, 1)
            cases.one_pass(unet, method, accelerator)
    assert not differences(before, fingerprint(unet))


@both
def test_during_a_call_layers_are_wrapped(kind):
    """The other tests would pass if nothing were ever put on a layer."""
    unet = models.UNETS[kind]()
    seen = []
    watched = next(module for name, module in unet.named_modules() if name.endswith("attn1.to_q"))
    watched.register_forward_hook(lambda *_: seen.append(wrapped_layers(unet)))
    with accelerated(unet, TokenMerging()):
        models.call(unet)
    assert len(seen[0]) == 3
    assert all(name.endswith("attn1") for name in seen[0])


@every_kind
@every_method
def test_after_an_error_inside_the_unet(kind, method):
    unet = models.ALL[kind]()
    plain = models.plain_pass(kind)
    before = fingerprint(unet)
    trap = Trap(unet, ValueError("the model's own"), calls=1)
    with accelerated(unet, *cases.EVERY[method]) as accelerator:
        with_accel = fingerprint(unet)
        with pytest.raises(ValueError, match="the model's own"):
            cases.one_pass(unet, method, accelerator)
        assert not differences(with_accel, fingerprint(unet))
    trap.handle.remove()
    assert not differences(before, fingerprint(unet))
    assert torch.equal(models.one_pass(unet), plain)


@both
@pytest.mark.parametrize("method", ["stages", "everywhere"])
@pytest.mark.parametrize("then", ["remove", "apply", "call", "sweep"])
def test_after_an_interrupt(kind, method, then):
    """A BaseException skips post-hooks: leftovers are swept at the next entry, by remove and by a new accelerator."""
    unet = models.UNETS[kind]()
    plain = models.plain_pass(kind)
    before = fingerprint(unet)
    accelerator = accelerated(unet, *cases.METHODS[method])
    between = fingerprint(unet)
    enabled = models.one_pass(unet)
    trap = Trap(unet, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        models.one_pass(unet)
    trap.handle.remove()
    if then == "remove":
        accelerator.remove()
    elif then == "apply":
        apply_patch(unet)
        assert not wrapped_layers(unet)
        remove_patch(unet)
    elif then == "sweep":
        accelerator.sweep()
        assert not differences(between, fingerprint(unet))
    else:
        accelerator.new_pass()
        assert torch.equal(models.one_pass(unet), enabled)
        assert not differences(between, fingerprint(unet))
    accelerator.remove()
    assert not differences(before, fingerprint(unet))
    assert torch.equal(models.one_pass(unet), plain)


@every_kind
@every_method
def test_after_an_interrupt_in_a_call_in_which_it_acts(kind, method):
    unet = models.ALL[kind]()
    plain = models.plain_pass(kind)
    before = fingerprint(unet)
    accelerator = accelerated(unet, *cases.EVERY[method])
    enabled = cases.one_pass(unet, method, accelerator)
    accelerator.new_pass()
    trap = Trap(unet, KeyboardInterrupt(), calls=1)
    with pytest.raises(KeyboardInterrupt):
        cases.one_pass(unet, method, accelerator)
    trap.handle.remove()
    accelerator.new_pass()
    assert torch.equal(cases.one_pass(unet, method, accelerator), enabled)
    accelerator.remove()
    assert not differences(before, fingerprint(unet))
    assert torch.equal(models.one_pass(unet), plain)


@both
def test_leftovers_do_not_act(kind):
    """ControlNet calls the U-Net's forward, not the U-Net: no hook of ours sees that."""
    unet = models.UNETS[kind]()
    given = models.inputs()
    plain = models.call(unet)
    with accelerated(unet, *cases.METHODS["everywhere"]) as accelerator:
        between = fingerprint(unet)
        trap = Trap(unet, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            models.call(unet)
        trap.handle.remove()
        assert wrapped_layers(unet)
        calls = accelerator.report().as_dict()["methods"][0]["layer_calls"]
        with torch.no_grad():
            direct = unet.forward(given.latents, given.timestep, given.text)
        assert torch.equal(direct if isinstance(direct, torch.Tensor) else direct.sample, plain)
        assert accelerator.report().as_dict()["methods"][0]["layer_calls"] == calls
        assert not differences(between, fingerprint(unet))


@both
def test_an_interrupt_while_arming(kind, monkeypatch):
    """Even between the registering of a hook and its return."""
    unet = models.UNETS[kind]()
    before = fingerprint(unet)
    accelerator = accelerated(unet, TokenMerging())
    blocks = [site.block for site in accelerator.sites]
    original = torch.nn.Module.register_forward_pre_hook

    def interrupted(module, *args, **kwargs):
        original(module, *args, **kwargs)
        if module is blocks[-1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.nn.Module, "register_forward_pre_hook", interrupted)
    with pytest.raises(KeyboardInterrupt):
        models.call(unet)
    monkeypatch.undo()
    assert wrapped_layers(unet)
    accelerator.remove()
    assert not differences(before, fingerprint(unet))


@both
def test_applied_five_times(kind):
    unet = models.UNETS[kind]()
    plain = models.plain_pass(kind)
    before = fingerprint(unet)
    for ratio in (0.1, 0.2, 0.3, 0.4, 0.5):
        apply_patch(unet, ratio=ratio)
        once = models.one_pass(unet)
    assert (len(unet._forward_pre_hooks), len(unet._forward_hooks)) == (1, 1)
    remove_patch(unet)
    assert not differences(before, fingerprint(unet))
    assert torch.equal(models.one_pass(unet), plain)
    apply_patch(unet, ratio=0.5)
    assert torch.equal(models.one_pass(unet), once)


@both
def test_a_second_accelerator_replaces_the_first(kind):
    unet = models.UNETS[kind]()
    before = fingerprint(unet)
    apply_patch(unet)
    second = accelerated(unet, TokenMerging(ratio=0.3))
    first_again = accelerated(unet, TokenMerging(ratio=0.3))
    models.call(unet)
    second.remove()
    assert is_patched(unet)
    assert second.report().as_dict()["unet_calls"] == 0
    first_again.remove()
    remove_patch(unet)
    remove_patch(unet)
    assert not is_patched(unet)
    assert not differences(before, fingerprint(unet))


@both
def test_our_wrapper_put_back_by_somebody_is_taken_off(kind):
    """ControlNet and others keep the forward that they find and restore it later, perhaps when ours is long over."""
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    before = fingerprint(unet)
    layer = next(m for n, m in unet.named_modules() if n.endswith("attn1"))
    kept = []
    handle = layer.register_forward_pre_hook(lambda module, _: kept.append(vars(module)["forward"]))
    accelerator = accelerated(unet, TokenMerging())
    enabled = models.call(unet)
    handle.remove()
    layer.forward = kept[0]
    assert torch.equal(models.call(unet), enabled)
    assert wrapped_layers(unet) == []
    layer.forward = kept[0]
    accelerator.remove()
    assert not differences(before, fingerprint(unet))
    assert torch.equal(models.call(unet), plain)
