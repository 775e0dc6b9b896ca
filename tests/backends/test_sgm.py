"""SGM's U-Nets: told apart, taken apart, their extra arguments respected. On our twin, and on the host's own where there is one."""

import cases
import guided
import host_packages
import models
import pytest
import torch
from traces import differences, fingerprint

from lib_accel import AgentAttention, TokenMerging, accelerated, apply_patch, remove_patch
from lib_accel.backends import backend_for

with_a_host = pytest.mark.skipif(host_packages.host_folder() is None, reason="A1111_ROOT is not set")


def build(whose, **changes):
    return models.sgm_unet(unet_class=host_packages.unet_class("sgm") if whose == "host" else None, **changes)


@pytest.fixture(params=["twin", pytest.param("host", marks=[pytest.mark.host, with_a_host])])
def whose(request):
    return request.param


def attention_of(unet, part="attn1"):
    return next(module for name, module in unet.named_modules() if name.endswith(part))


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("method", ["stages", "everywhere"])
def test_plain_enabled_disabled(whose, method, checkpoint):
    unet = build(whose, use_checkpoint=checkpoint)
    plain = models.one_pass(unet)
    before = fingerprint(unet)
    with accelerated(models.latent_diffusion(unet), *cases.METHODS[method]) as accelerator:
        enabled = models.one_pass(unet)
    assert accelerator.report().as_dict()["backend"] == "sgm"
    assert all(not torch.allclose(e, p, atol=1e-3) for e, p in zip(enabled, plain))
    assert not differences(before, fingerprint(unet))
    assert torch.equal(models.one_pass(unet), plain)


@pytest.mark.parametrize("method", [TokenMerging(max_downsample=8), AgentAttention(max_downsample=8, window=(0, 1))])
def test_checkpointed_blocks_give_the_same(whose, method):
    """Then a block calls its attention in another way: what the methods do must not depend on it."""
    outputs = []
    for checkpoint in (False, True):
        unet = build(whose, use_checkpoint=checkpoint)
        with accelerated(unet, method):
            outputs.append(models.call(unet))
    assert torch.equal(*outputs)


def test_sites(whose):
    with accelerated(build(whose), TokenMerging()) as accelerator:
        sites = [(site.name, site.level, site.place) for site in accelerator.sites]
    assert sites == [
        ("input_blocks.3.1.transformer_blocks.0", 1, "down"),
        *[(f"input_blocks.5.1.transformer_blocks.{n}", 2, "down") for n in (0, 1)],
        *[(f"middle_block.1.transformer_blocks.{n}", 2, "mid") for n in (0, 1)],
        *[(f"output_blocks.{stage}.1.transformer_blocks.{n}", 2, "up") for stage in (0, 1) for n in (0, 1)],
        *[(f"output_blocks.{stage}.1.transformer_blocks.0", 1, "up") for stage in (2, 3)],
    ]


EXTRA = [
    ("additional_tokens", lambda x: torch.ones(x.shape[0], 3, x.shape[2])),
    ("n_times_crossframe_attn_in_self", lambda x: 2),
]


@pytest.mark.parametrize("name, value", EXTRA, ids=[name for name, _ in EXTRA])
@pytest.mark.parametrize("positional", [False, True])
@pytest.mark.parametrize("method", ["agents", "everywhere"])
def test_extra_arguments_run_the_layers_own_attention(whose, name, value, positional, method):
    """Given to the finest self-attention layers by somebody who knows them; the report names the argument."""
    unet = build(whose)
    sites = [s for s in backend_for(unet).find_sites(unet) if s.level == 1]

    def give(layer, args, kwargs):
        kwargs = kwargs | {name: value(args[0])}
        if positional:
            order = ("context", "mask", "additional_tokens", "n_times_crossframe_attn_in_self")
            given = [kwargs.pop(n, 0 if n.startswith("n_times") else None) for n in order]
            return (*args, *given), kwargs
        return args, kwargs

    def one_call():
        handles = [site.part("attn1").register_forward_pre_hook(give, with_kwargs=True) for site in sites]
        try:
            return models.call(unet)
        finally:
            for handle in handles:
                handle.remove()

    layer, seen = sites[0].part("attn1"), []
    plain = one_call()
    assert not torch.equal(plain, models.call(unet))
    handle = layer.register_forward_hook(lambda _, args, kwargs, out: seen.append((args, kwargs, out)), with_kwargs=True)
    with accelerated(unet, *cases.METHODS[method]) as accelerator:
        out = one_call()
    handle.remove()
    ((args, kwargs, served),) = seen
    with torch.no_grad():
        assert torch.equal(type(layer).forward(layer, *args, **kwargs), served)
    reasons = guided.layers_why(accelerator.report().as_dict()["methods"][0])
    assert reasons[("called_with", name)] == len(sites)
    if method == "agents":
        assert torch.equal(out, plain)


def test_nothing_of_the_extras_is_passed_by_default(whose):
    """None and 0, which image models pass, keep no method away."""
    unet = build(whose)
    seen = []
    attention_of(unet).register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    with accelerated(unet, TokenMerging()) as accelerator:
        models.call(unet)
    assert seen[0]["additional_tokens"] is None and seen[0]["n_times_crossframe_attn_in_self"] == 0
    account = accelerator.report().as_dict()["methods"][0]
    assert account["layers"] == 3 and not account["stood_down"]


def test_a_unet_without_attention_at_its_finest_level_is_never_a_silent_no_op(whose):
    unet = build(whose)
    plain = models.call(unet)
    apply_patch(unet, max_downsample=1)
    assert not torch.equal(models.call(unet), plain)
    remove_patch(unet)
    assert torch.equal(models.call(unet), plain)


def test_ldm_and_sgm_are_told_apart(whose):
    assert backend_for(build(whose)).name == "sgm"
    assert backend_for(models.ldm_unet()).name == "ldm"
    assert backend_for(models.ldm_unet_sd2()).name == "ldm"
    assert backend_for(models.diffusers_unet_sdxl()).name == "diffusers"


@pytest.mark.parametrize("h, w", [(17, 13), (31, 40)])
def test_grids_that_do_not_halve_evenly(h, w):
    """On the twin alone: SGM itself joins skip connections of equal size only, the WebUI mends that."""
    unet, given = models.sgm_unet(), models.inputs(rows=1, h=h, w=w)
    plain = models.call(unet, given)
    with accelerated(unet, TokenMerging()) as accelerator:
        assert not torch.allclose(models.call(unet, given), plain, atol=1e-3)
    assert accelerator.report().as_dict()["methods"][0]["tokens_in"] == 3 * -(-h // 2) * -(-w // 2)
    assert torch.equal(models.call(unet, given), plain)


def test_blocks_that_others_derived_are_still_sgm():
    """Built-in token merging of the host gives every block a class of its own, whose _forward takes x and context alone."""
    unet = models.sgm_unet()
    for module in list(unet.modules()):
        if type(module).__name__ == "BasicTransformerBlock":
            module.__class__ = type("ToMeBlock", (type(module),), {"_forward": lambda self, x, context=None: x})
    assert backend_for(unet).name == "sgm"


@pytest.mark.host
@with_a_host
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("method", ["stages", "everywhere"])
def test_plain_enabled_disabled_on_the_hosts_ldm(method, checkpoint):
    unet_class = host_packages.unet_class("ldm")
    unet = models.ldm_unet(unet_class=unet_class, use_checkpoint=checkpoint)
    plain = models.one_pass(unet)
    before = fingerprint(unet)
    with accelerated(models.latent_diffusion(unet), *cases.METHODS[method]) as accelerator:
        enabled = models.one_pass(unet)
    assert type(unet).__module__.startswith("ldm.") and accelerator.report().as_dict()["backend"] == "ldm"
    assert all(not torch.allclose(e, p, atol=1e-3) for e, p in zip(enabled, plain))
    assert not differences(before, fingerprint(unet))
    assert torch.equal(models.one_pass(unet), plain)
