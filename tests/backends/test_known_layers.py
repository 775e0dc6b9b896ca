"""Layers are served, given other keys or fewer tokens only where processors, forwards and hooks are known; others run as they are."""

import collections

import diffusers
import guided
import models
import pytest
import torch
from diffusers.models.attention_processor import Attention, IPAdapterAttnProcessor2_0
from serving import ServeCalls, ServeStage, Shallow
from traces import differences, fingerprint

from lib_accel import AgentAttention, Row, TGate, TokenDownsampling, TokenMerging, accelerated
from lib_accel.backends import known

SERVING = TGate(gate_step=1, drop_guidance=False)
REDUCING = {
    "merging": TokenMerging(ratio=0.5, max_downsample=4),
    "agents": AgentAttention(window=(0, 1), max_downsample=4),
    "downsampling": TokenDownsampling(deeper_factor=2),
}


def account(accelerator, index=0):
    return accelerator.report().as_dict()["methods"][index]


def layers(unet, part):
    return [module for name, module in unet.named_modules() if name.endswith(part)]


def attention(attn, hidden_states, context):
    """Softmax maps [rows * heads, tokens, keys] and the values of an attention layer."""
    q, k, v = (attn.head_to_batch_dim(tensor) for tensor in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)))
    return attn.get_attention_scores(q, k), v


def returned(attn, maps, values):
    return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(maps @ values)))


class Store:
    """A processor that must be called every time and keeps the words' and the picture's maps apart (stores, controllers)."""

    def __init__(self):
        self.maps = collections.defaultdict(list)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        maps, values = attention(attn, hidden_states, context)
        self.maps["words" if encoder_hidden_states is not None else "picture"].append(maps.shape[-1])
        return returned(attn, maps, values)


class Shared:
    """A processor of style sharing: every picture of a half looks at the first one's tokens, too. It has no use for a text."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        halves = hidden_states.chunk(2)
        context = torch.cat([torch.cat([half, half[:1].expand_as(half)], 1) for half in halves])
        return returned(attn, *attention(attn, hidden_states, context))


def processed(part, processor):
    unet = models.diffusers_unet()
    for layer in layers(unet, part):
        layer.set_processor(processor)
    return unet


def test_processors_that_must_be_called_are():
    """Serving them from a cache would leave holes in what they keep."""
    store = Store()
    unet = processed("attn2", store)
    plain = models.one_pass(unet, (999, 699, 399))
    calls = len(store.maps["words"])
    store.maps.clear()
    with accelerated(unet, SERVING) as accelerator:
        assert torch.equal(models.one_pass(unet, (999, 699, 399)), plain)
    assert len(store.maps["words"]) == calls == 21
    assert account(accelerator)["layers"] == 0
    assert guided.layers_why(account(accelerator)) == {("processor", "Store"): 7}


@pytest.mark.parametrize("method", [ServeCalls(), ServeStage(6), Shallow(2), Shallow(2, images=(1,))], ids=["call", "stage", "deep", "one"])
def test_what_must_be_called_is_not_left_out_with_its_stage_or_call(method):
    store = Store()
    unet = processed("mid_block.attentions.0.transformer_blocks.0.attn2", store)
    two = [Row(role, image) for role in ("uncond", "cond") for image in range(2)]
    with accelerated(unet, method) as accelerator:
        guided.passes(unet, accelerator, 4, (two,))
    assert len(store.maps["words"]) == 4
    told = account(accelerator)
    assert any(code.endswith("processor") for code in guided.codes(told)) and "Store" in str(told["reasons"])
    report = accelerator.report().as_dict()
    assert (report["calls_served"], report["stages_served"], report["rows_served"]) == (0, 0, 0)


def test_known_layers_beside_unknown_ones_are_served():
    unet = models.diffusers_unet()
    layers(unet, "attn2")[0].set_processor(Store())
    with accelerated(unet, SERVING) as accelerator:
        models.one_pass(unet)
    assert account(accelerator)["layers_by_effect"] == {"cross-attention served": 6}
    assert guided.layers_why(account(accelerator)) == {("processor", "Store"): 1}


@pytest.mark.parametrize("method", REDUCING)
@pytest.mark.parametrize("processor", [Store, Shared])
def test_unknown_processors_are_given_what_they_would_have_been(processor, method):
    unet = processed("attn1", processor())
    given = models.inputs(rows=4)
    plain = models.call(unet, given)
    before = dict(getattr(layers(unet, "attn1")[0].processor, "maps", {}))
    with accelerated(unet, REDUCING[method]) as accelerator:
        assert torch.equal(models.call(unet, given), plain)
    assert before.keys() <= {"picture"}
    assert account(accelerator)["layers"] == 0
    assert set(guided.layers_why(account(accelerator))) == {("processor", processor.__name__)}


def downsampled(unet):
    """The attn1 layers that look at fewer tokens than they have, by what their projections are given."""
    seen, found = {}, set()
    for name, layer in unet.named_modules():
        if name.endswith("attn1"):
            layer.to_q.register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args[0].shape[1]}))
            layer.to_k.register_forward_pre_hook(
                lambda module, args, name=name: found.add(name) if args[0].shape[1] < seen.get(name, 0) else None
            )
    return found


def test_downsampling_reports_the_layers_that_it_changes():
    """The processors of perturbed-attention guidance ignore a context: the report must not say that their keys are coarser."""
    pipe = models.pipeline(kind="StableDiffusionPAGPipeline", pag_applied_layers=["down_blocks.0", "mid"])
    found = downsampled(pipe.unet)
    with accelerated(pipe, TokenDownsampling(deeper_factor=2)) as accelerator:
        models.picture(pipe, 2, pag_scale=3.0)
    told = account(accelerator)
    assert told["layers"] == len(found) > 0
    assert ("processor", "PAGCFGIdentitySelfAttnProcessor2_0") in guided.layers_why(told)


def test_fused_projections_are_merged_and_not_given_other_keys():
    unet = models.diffusers_unet()
    unet.fuse_qkv_projections()
    plain = models.call(unet)
    with accelerated(unet, TokenDownsampling()) as accelerator:
        assert torch.equal(models.call(unet), plain)
    assert guided.layers_why(account(accelerator)) == {("processor", "FusedAttnProcessor2_0"): 3}
    assert account(accelerator)["failed"] is None
    with accelerated(unet, TokenMerging()) as accelerator:
        models.call(unet)
    assert account(accelerator)["layers_by_effect"] == {"merging": 3}


@pytest.mark.parametrize("method", REDUCING)
def test_a_guiders_hook_that_skips_maps(method):
    """Modular Diffusers' perturbed-attention guiders put a hook on attn1, which unequal numbers of queries and keys would switch off."""
    hooks = pytest.importorskip("diffusers.hooks")
    unet = models.diffusers_unet()
    config = {"indices": [0], "fqn": "down_blocks.0.attentions.0.transformer_blocks", "skip_attention": False, "skip_ff": False}
    hooks.apply_layer_skip(unet, hooks.LayerSkipConfig(**config, skip_attention_scores=True))
    alone = torch.nn.ModuleList(layers(unet, "down_blocks.0.attentions.0"))
    seen = []
    alone[0].register_forward_hook(lambda module, args, out: seen.append(out[0]))
    models.call(unet)
    with accelerated(unet, REDUCING[method]) as accelerator:
        models.call(unet)
    assert torch.equal(*seen)
    assert guided.layers_why(account(accelerator)).get(("hook", "layer_skip_hook", "diffusers", "attn1")) == 1


def test_a_hook_on_a_projection_that_looks_at_the_grid():
    """Smoothed energy guidance blurs the queries of a square of tokens."""
    pytest.importorskip("diffusers.hooks")
    smoothing = pytest.importorskip("diffusers.hooks.smoothed_energy_guidance_utils")
    unet = models.diffusers_unet()
    config = smoothing.SmoothedEnergyGuidanceConfig([0], "down_blocks.0.attentions.0.transformer_blocks")
    smoothing._apply_smoothed_energy_guidance_hook(unet, config, 1.0)
    with accelerated(unet, TokenMerging()) as accelerator:
        models.call(unet)
    ((code, _, package, place), count), *more = guided.layers_why(account(accelerator)).items()
    assert (count, more) == (1, []) and (code, package, place) == ("hook", "diffusers", "attn1.to_q")
    assert account(accelerator)["layers"] == 2


class Projection(torch.nn.Module):
    def forward(self, image_embeds):
        return image_embeds


def adapted():
    """A U-Net with an IP-Adapter, and a call of it: the picture is to be seen in the left half alone."""
    unet = models.diffusers_unet()
    for attn in layers(unet, "attn2"):
        attn.set_processor(models.lively(IPAdapterAttnProcessor2_0(32, models.WIDTH, num_tokens=(4,), scale=[1.0])))
    unet.encoder_hid_proj = Projection()
    unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    image = torch.randn(2, 1, 4, models.WIDTH, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., :64] = 1
    more = {"added_cond_kwargs": {"image_embeds": [image]}, "cross_attention_kwargs": {"ip_adapter_masks": [mask]}}
    return unet, more


def leaks(unet, more):
    """How much the adapter's picture changes the right half of what the first cross-attention returns."""
    seen = []
    handle = layers(unet, "attn2")[0].register_forward_hook(lambda module, args, out: seen.append(out.unflatten(1, (16, 16))[:, :, 8:]))
    models.call(unet, **more)
    models.call(unet, **more | {"added_cond_kwargs": {"image_embeds": [-more["added_cond_kwargs"]["image_embeds"][0]]}})
    handle.remove()
    return float((seen[0] - seen[1]).abs().max())


def test_masks_of_an_ip_adapter_are_laid_on_all_tokens():
    unet, more = adapted()
    assert leaks(unet, more) == 0
    with accelerated(unet, TokenMerging(merge_crossattn=True)) as accelerator:
        assert leaks(unet, more) == 0
    assert account(accelerator)["layers_by_effect"] == {"merging": 3}
    assert guided.layers_why(account(accelerator)) == {("called_with", "ip_adapter_masks"): 3}


def test_without_masks_an_ip_adapter_is_merged():
    unet, more = adapted()
    with accelerated(unet, TokenMerging(merge_crossattn=True, merge_attn=False)) as accelerator:
        models.call(unet, added_cond_kwargs=more["added_cond_kwargs"])
    assert account(accelerator)["layers"] == 3 and account(accelerator)["stood_down"] == {}


def test_a_hook_that_was_taken_off_keeps_nobody_away():
    """diffusers leaves its emptied registry, and the forward that was there, on the module."""
    hooks = pytest.importorskip("diffusers.hooks")
    unet = models.diffusers_unet()
    with accelerated(unet, AgentAttention(window=(0, 1))):
        wanted = models.call(unet)
    for layer in layers(unet, "attn1"):
        registry = hooks.HookRegistry.check_if_exists_or_initialize(layer)
        registry.register_hook(hooks.ModelHook(), "passing by")
    with accelerated(unet, AgentAttention(window=(0, 1))) as accelerator:
        models.call(unet)
    assert guided.layers_why(account(accelerator)) == {("hook", "passing by", "diffusers", "attn1"): 3}
    for layer in layers(unet, "attn1"):
        layer._diffusers_hook.remove_hook("passing by")
    with accelerated(unet, AgentAttention(window=(0, 1))) as accelerator:
        assert torch.equal(models.call(unet), wanted)
    assert account(accelerator)["stood_down"] == {}


def test_heat_maps_and_served_layers_name_whose_forward_it_is(monkeypatch):
    """Also a forward that a decorator gave the name of the one below, and one on the class."""
    import functools

    unet = models.diffusers_unet()
    for layer in layers(unet, "attn2"):

        @functools.wraps(layer.forward)
        def forward(*args, before=layer.forward, **kwargs):
            return before(*args, **kwargs)

        layer.forward = forward
    before = fingerprint(unet)
    with accelerated(unet, SERVING, TokenMerging()) as accelerator:
        models.one_pass(unet)
    assert guided.layers_why(account(accelerator)) == {("forward", __name__, "attn2"): 7}
    assert account(accelerator, 1)["layers"] == 3
    assert not differences(before, fingerprint(unet))
    for layer in layers(unet, "attn2"):
        del layer.forward
    plain = Attention.forward
    monkeypatch.setattr(Attention, "forward", lambda self, *args, **kwargs: plain(self, *args, **kwargs))
    with accelerated(unet, SERVING) as accelerator:
        models.one_pass(unet)
    assert guided.layers_why(account(accelerator)) == {("forward", __name__, "attn2"): 7}


def test_a_block_that_others_rewrote_is_not_served():
    """It may call a layer twice for one picture (reference-only pipelines)."""
    unet = models.diffusers_unet()
    for block in layers(unet, "transformer_blocks.0"):
        block.forward = lambda *args, before=block.forward, **kwargs: before(*args, **kwargs)
    plain = models.one_pass(unet)
    with accelerated(unet, SERVING) as accelerator:
        assert torch.equal(models.one_pass(unet), plain)
    assert guided.layers_why(account(accelerator)) == {("forward", __name__, "the block"): 7}


@pytest.mark.parametrize("kind", ["ldm", "sgm"])
def test_on_a_hosts_unet_only_its_own_forwards_are_served(kind):
    """Bound again, as ControlNet's IP-Adapter leaves it, it is the layer's own."""
    unet = models.UNETS[kind]()
    attn2 = layers(unet, "attn2")
    sites = len(attn2)
    for layer in attn2:
        layer.forward = type(layer).forward.__get__(layer)
    with accelerated(unet, SERVING) as accelerator:
        models.one_pass(unet)
    assert account(accelerator)["layers"] == sites and account(accelerator)["stood_down"] == {}
    calls = []
    for layer in attn2:
        layer.forward = lambda *args, before=layer.forward, **kwargs: calls.append(1) or before(*args, **kwargs)
    with accelerated(unet, SERVING) as accelerator:
        models.one_pass(unet)
    assert len(calls) == 2 * sites
    assert guided.layers_why(account(accelerator)) == {("forward", __name__, "attn2"): sites}


def test_every_processor_in_the_table_is_one_of_diffusers():
    """Those that this diffusers has: a name that is misspelt would keep a known processor from being used."""
    import diffusers.models.attention_processor as processors

    assert all(abilities <= {known.ROWS, known.TOKENS, known.SERVED, known.KEYS, known.PLAIN} for abilities in known.PROCESSORS.values())
    have = {name for package, name in known.PROCESSORS if package == "diffusers" and hasattr(processors, name)}
    assert len(have) >= 15


@pytest.mark.parametrize("way", ["torch.func.jvp", "forward-mode AD", "torch.func.vmap"])
def test_derivatives_without_gradients(way):
    """Forward mode needs no enabled gradients, and what methods do is not to be differentiated either."""
    unet = models.diffusers_unet()
    given = models.inputs()

    def run(latents):
        return unet(latents, given.timestep, given.text).sample

    def derived():
        with torch.no_grad():
            if way == "torch.func.jvp":
                return torch.func.jvp(run, (given.latents,), (torch.ones_like(given.latents),))
            if way == "torch.func.vmap":
                return (torch.func.vmap(run)(given.latents[None]),)
            with torch.autograd.forward_ad.dual_level():
                out = run(torch.autograd.forward_ad.make_dual(given.latents, torch.ones_like(given.latents)))
                return tuple(torch.autograd.forward_ad.unpack_dual(out))

    for layer in layers(unet, "attn1") + layers(unet, "attn2"):
        layer.set_processor(diffusers.models.attention_processor.AttnProcessor())
    plain = derived()
    with accelerated(unet, TokenMerging(), TGate(gate_step=1)) as accelerator:
        got = derived()
    assert all(torch.equal(one, other) for one, other in zip(plain, got))
    assert account(accelerator)["layers"] == 0
    assert len(accelerator.report().as_dict()["stood_down"]) == 1
