"""Prompts and adapters that change in mid-pass: what was kept under the others is let go, and the report says so."""

import models
import pytest
import torch

from lib_accel import GuidanceSkip, TGate, accelerated
from lib_accel.backends import row_safety
from lib_accel.core.conditions import adapters_of

GATE = TGate(gate=0.25)


def at(index, change):
    def callback(pipe, step, timestep, tensors):
        return (change(pipe, tensors) or {}) if step == index else {}

    return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}


def stood_down(accelerator):
    return [(reason["code"], reason.get("what")) for reason in accelerator.report().as_dict()["reasons"]]


def new_texts(pipe, tensors):
    return {"prompt_embeds": tensors["prompt_embeds"].flip(-1)}


def in_place(pipe, tensors):
    tensors["prompt_embeds"].mul_(-1)


def equal_texts(pipe, tensors):
    return {"prompt_embeds": tensors["prompt_embeds"].clone()}


def guidance_off(pipe, tensors):
    pipe._guidance_scale = 0.0
    return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[-1]}


@pytest.mark.parametrize("change, acts", [(new_texts, True), (in_place, True), (equal_texts, False), (guidance_off, False)])
def test_prompts_changed_after_the_gate(change, acts):
    pipe = models.pipeline()
    with accelerated(pipe, GATE) as accelerator:
        gated = models.picture(pipe, 8)
        changed = models.picture(pipe, 8, **at(4, change))
    assert torch.equal(changed, gated) is not acts
    assert stood_down(accelerator) == ([("conditions_changed", "the prompts")] if acts else [])


def test_lora_switched_after_the_gate():
    peft = pytest.importorskip("peft")
    pipe = models.pipeline()
    for seed, name in enumerate(("one", "two")):
        pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False), name)
        generator = torch.Generator().manual_seed(seed)
        for path, parameter in pipe.unet.named_parameters():
            if name in path.split("."):
                parameter.data = torch.randn(parameter.shape, generator=generator)
    pipe.unet.set_adapters(["one"])
    switch = at(4, lambda pipe, tensors: pipe.unet.set_adapters(["two"], [0.5]))
    with torch.no_grad(), accelerated(pipe, GATE) as accelerator:
        gated = models.picture(pipe, 8)
        assert stood_down(accelerator) == []
        switched = models.picture(pipe, 8, **switch)
    assert not torch.equal(switched, gated)
    assert stood_down(accelerator) == [("conditions_changed", "the adapters")]


def scale_of_guidance(value):
    def change(pipe, tensors):
        pipe._guidance_scale = value

    return change


@pytest.mark.parametrize("value, acts", [(9.0, True), (5.0, False), (1.0, False)])
def test_the_guidance_scale_changed_after_the_gate(value, acts):
    """Where guidance ends, what was kept of the rows that go on is still theirs."""
    pipe = models.pipeline()
    change = (
        scale_of_guidance(value)
        if value > 1
        else lambda pipe, tensors: scale_of_guidance(value)(pipe, tensors) or guidance_off(pipe, tensors)
    )
    with accelerated(pipe, GATE) as accelerator:
        gated = models.picture(pipe, 8)
        changed = models.picture(pipe, 8, **at(4, change))
    assert torch.equal(changed, gated) is not acts
    assert stood_down(accelerator) == ([("conditions_changed", "the guidance scale")] if acts else [])


@pytest.mark.parametrize("scale, acts", [(0.1, True), (1.0, False)])
def test_the_scale_of_an_image_prompt_changed_after_the_gate(scale, acts):
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    class Images(torch.nn.Module):
        def forward(self, image_embeds):
            return image_embeds

    pipe = models.pipeline()
    for name, attn in pipe.unet.named_modules():
        if name.endswith("attn2"):
            attn.set_processor(models.lively(IPAdapterAttnProcessor2_0(32, models.WIDTH, num_tokens=(4,), scale=[1.0])))
    pipe.unet.encoder_hid_proj = Images()
    pipe.unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    image = [torch.randn(2, 1, 4, models.WIDTH, generator=torch.Generator().manual_seed(0))]
    pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: (args, kwargs | {"added_cond_kwargs": {"image_embeds": image}}), with_kwargs=True
    )

    def change(pipe, tensors):
        for processor in pipe.unet.attn_processors.values():
            if isinstance(processor, IPAdapterAttnProcessor2_0):
                processor.scale = [scale]

    with accelerated(pipe, GATE) as accelerator:
        gated = models.picture(pipe, 6, size=64)
        changed = models.picture(pipe, 6, size=64, **at(3, change))
    assert torch.equal(changed, gated) is not acts
    assert stood_down(accelerator) == ([("conditions_changed", "the adapters")] if acts else [])


@pytest.mark.parametrize("kind", models.BOTH)
def test_a_bare_unet_that_is_given_another_text(kind):
    unet = models.UNETS[kind]()
    given = [models.inputs(timestep=timestep) for timestep in (999, 600, 400, 200)]
    with accelerated(unet, TGate(gate=0.3, drop_guidance=False)) as accelerator:
        for one in given:
            models.call(unet, one)
        assert stood_down(accelerator) == []
        for one in given[:3]:
            models.call(unet, one)
        given[3].text = given[3].text.flip(-1)
        models.call(unet, given[3])
    assert stood_down(accelerator) == [("conditions_changed", "the prompts")]


def test_a_replaced_accelerator_leaves_the_other_alone():
    import copy

    unet = models.diffusers_unet()
    plain = models.one_pass(unet)
    first = accelerated(unet, GATE)
    with accelerated(unet, TGate(gate_step=1, drop_guidance=False)) as second:
        wanted = models.one_pass(unet)
        first.remove()
        assert torch.equal(models.one_pass(unet), wanted)
        assert torch.equal(models.one_pass(copy.deepcopy(unet)), plain)
        assert second.report().as_dict()["unet_calls"] == 4
    assert torch.equal(models.one_pass(unet), plain)
    assert stood_down(first) == [("replaced", None)]


class Looked(torch.nn.Module):
    """What a LoRA layer is made of: most modules of a model with LoRAs."""

    @property
    def scaling(self):
        raise AssertionError("it was looked at")


def test_what_lora_layers_are_made_of_is_not_looked_through_in_every_call():
    """SDXL with one LoRA has 9150 modules; all of them took 27 ms of every call."""
    peft = pytest.importorskip("peft")
    unet = models.diffusers_unet()
    unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "one")
    layers = [module for module in unet.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        layer.lora_A["looked"] = Looked()
    before = adapters_of(unet)
    assert len(before) == len(layers) > 0
    layers[0].scaling["one"] *= 0.5
    assert adapters_of(unet) != before


def test_a_call_looks_its_modules_through_once_whoever_asks(monkeypatch):
    looked = []
    strangers = row_safety._strangers
    monkeypatch.setattr(row_safety, "_strangers", lambda *given: looked.append(1) or strangers(*given))
    pipe = models.pipeline(schedule="EulerDiscreteScheduler")
    with accelerated(pipe, GATE, GuidanceSkip(when="after", after=0.25)) as accelerator:
        models.picture(pipe, 8)
    saved = [method["evaluations_saved"] for method in accelerator.report().as_dict()["methods"]]
    assert len(looked) == sum(saved) == 6
