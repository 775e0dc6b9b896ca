"""Compiled code and training: everything stands down, with a sentence."""

import copy

import guided
import models
import pytest
import torch

from lib_accel import AgentAttention, DeepCache, TokenMerging, accelerated, is_patched

both = pytest.mark.parametrize("kind", models.BOTH)
COMPILED = ["compiled"]


@pytest.fixture
def eagerly():
    """Compiled modules keep their marks but run as they are: compiling a U-Net takes a while."""
    if not hasattr(torch.compiler, "set_stance"):
        pytest.skip("this torch cannot run compiled modules eagerly")
    with torch.compiler.set_stance("force_eager"):
        yield


def test_really_compiled():
    unet = models.ldm_unet()
    plain = models.call(unet)
    accelerator = accelerated(unet, AgentAttention(window=(0, 1)))
    accelerator.sites[0].block.compile(backend="eager")
    models.call(unet)
    reasons = guided.layers_why(accelerator.report().as_dict()["methods"][0])
    assert reasons == {("part_compiled", "input_blocks.1.1.transformer_blocks.0"): 1}
    accelerator.remove()
    torch.testing.assert_close(models.call(unet), plain)


@both
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_compiled_forward_on_the_unet(kind, when):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    compiled = torch.compile(unet.forward, backend="eager")
    if when == "before":
        unet.forward = compiled
    with accelerated(unet, AgentAttention(window=(0, 1))) as accelerator, torch.compiler.set_stance("force_eager"):
        unet.forward = compiled
        assert torch.equal(models.call(unet), plain)
        assert guided.codes(accelerator.report().as_dict()) == COMPILED


@both
def test_a_compiled_forward_on_a_block(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, AgentAttention(window=(0, 1))) as accelerator, torch.compiler.set_stance("force_eager"):
        site = accelerator.sites[0]
        site.block.forward = torch.compile(site.block.forward, backend="eager")
        models.call(unet)
    reasons = guided.layers_why(accelerator.report().as_dict()["methods"][0])
    assert reasons == {("part_compiled", f"{site.name}"): 1}


@both
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_unet_compiled_in_place(kind, when, eagerly):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    if when == "before":
        unet.compile(backend="eager")
    with accelerated(unet, TokenMerging()) as accelerator:
        if when == "after":
            unet.compile(backend="eager")
        assert torch.equal(models.call(unet), plain)
        assert guided.codes(accelerator.report().as_dict()) == COMPILED
    assert accelerator.report().as_dict()["methods"][0]["layers"] == 0


@both
def test_a_wrapper_around_the_unet(kind, eagerly):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    compiled = torch.compile(unet, backend="eager")
    with accelerated(compiled, TokenMerging()) as accelerator:
        assert is_patched(unet)
        assert torch.equal(models.call(compiled), plain)
    assert guided.codes(accelerator.report().as_dict()) == COMPILED


def test_a_pipeline_with_a_compiled_unet():
    pipe = models.pipeline()
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    with accelerated(pipe, TokenMerging()) as accelerator:
        assert guided.codes(accelerator.report().as_dict()) == COMPILED


@pytest.mark.parametrize("other", ["compiled", "exchanged"])
def test_a_pipeline_whose_unet_changes_afterwards(other, eagerly):
    pipe = models.pipeline()
    unet, plain = pipe.unet, models.picture(pipe, 2)
    with accelerated(pipe, TokenMerging()) as accelerator:
        pipe.unet = torch.compile(unet, backend="eager") if other == "compiled" else copy.deepcopy(unet)
        assert torch.equal(models.picture(pipe, 2), plain)
        assert guided.codes(accelerator.report().as_dict()) == [other]
        pipe.unet = unet
        assert accelerator.report().as_dict()["reasons"] == []
        pipe.unet = torch.compile(unet, backend="eager")
    # As it was when it ended.
    pipe.unet = unet
    assert guided.codes(accelerator.report().as_dict()) == COMPILED


def passing_by(module, layers):
    """A forward that runs the code of ``layers`` past whatever is put on them, as code does that was compiled before; it bears no mark."""
    own = module.forward

    def forward(*args, **kwargs):
        put = [(vars(layer), name, vars(layer)[name]) for layer in layers for name in ("forward",) if name in vars(layer)]
        for attributes, name, _ in put:
            del attributes[name]
        try:
            return own(*args, **kwargs)
        finally:
            for attributes, name, value in put:
                attributes[name] = value

    return forward


@both
def test_what_is_passed_by_is_not_claimed(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, AgentAttention(window=(0, 1)), auto=False) as accelerator:
        one, *others = [site for site in accelerator.sites if site.level == 0]
        one.block.forward = passing_by(one.block, [one.part("attn1")])
        models.call(unet)
    method = accelerator.report().as_dict()["methods"][0]
    assert method["layers"] == len(others)
    assert [(reason["code"], reason["layers"]) for reason in method["reasons"]] == [("unreached", 1)]


def test_served_stages_that_are_passed_by_are_run_after_all():
    """Nothing stands for what the deep stages return where what was put on them is not reached: the call is run again, whole."""
    unet = models.diffusers_unet()
    plain = models.one_pass(unet, (999, 700, 400, 100))
    with accelerated(unet, DeepCache(every=2, warm_up=0, last=0), auto=False) as accelerator:
        assert not torch.equal(models.one_pass(unet, (999, 700, 400, 100)), plain)
        assert accelerator.report().as_dict()["methods"][0]["shallow_steps"] > 0
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        parts = [
            block,
            *getattr(block, "resnets", ()),
            *(getattr(block, "attentions", None) or ()),
            *(getattr(block, "downsamplers", None) or ()),
        ]
        block.forward = passing_by(block, parts[1:])
    with accelerated(unet, DeepCache(every=2, warm_up=0, last=0), auto=False) as accelerator:
        assert torch.equal(models.one_pass(unet, (999, 700, 400, 100)), plain)
    told = accelerator.report().as_dict()["methods"][0]
    assert told["shallow_steps"] == 0 and told["reasons"]


@both
@pytest.mark.parametrize("place", ["transformer_blocks.0", "attn1"])
def test_compiled_parts(kind, place, eagerly):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    with accelerated(unet, AgentAttention(window=(0, 1))) as accelerator:
        for name, module in unet.named_modules():
            if name.endswith(place) and module is not unet:
                module.compile(backend="eager")
        assert torch.equal(models.call(unet), plain)
    assert {code for code, _ in guided.layers_why(accelerator.report().as_dict()["methods"][0])} == {"part_compiled"}
    assert accelerator.report().as_dict()["methods"][0]["layers"] == 0


def test_wrappers_around_blocks(eagerly):
    unet = models.ldm_unet()
    plain = models.call(unet)
    for name, module in list(unet.named_modules()):
        if name.endswith("transformer_blocks"):
            module[0] = torch.compile(module[0], backend="eager")
    with accelerated(unet, TokenMerging()) as accelerator:
        assert len(accelerator.sites) == 7
        torch.testing.assert_close(models.call(unet), plain)
    assert {code for code, _ in guided.layers_why(accelerator.report().as_dict()["methods"][0])} == {"part_compiled"}


def test_a_compiled_stage(eagerly):
    """What contains the block is compiled: its hooks would not act."""
    unet = models.diffusers_unet()
    unet.down_blocks[0].compile(backend="eager")
    unet.up_blocks[2] = torch.compile(unet.up_blocks[2], backend="eager")
    with accelerated(unet, TokenMerging(max_downsample=2)) as accelerator:
        assert len(accelerator.sites) == 7
        models.call(unet)
    reasons = guided.layers_why(accelerator.report().as_dict()["methods"][0])
    assert reasons == {("part_compiled", "down_blocks.0"): 1, ("part_compiled", "up_blocks.2"): 2}


def test_a_block_that_was_exchanged():
    unet = models.ldm_unet()
    with accelerated(unet, TokenMerging()) as accelerator:
        blocks = unet.input_blocks[1][1].transformer_blocks
        blocks[0] = copy.deepcopy(blocks[0])
        models.call(unet)
    method = accelerator.report().as_dict()["methods"][0]
    assert guided.layers_why(method) == {"exchanged": 1}
    assert method["layers"] == 2


@both
def test_training(kind):
    unet = models.UNETS[kind]().requires_grad_(True)
    given = models.inputs()

    def gradients():
        unet.zero_grad()
        out = unet(given.latents, given.timestep, given.text)
        (out if isinstance(out, torch.Tensor) else out.sample).square().sum().backward()
        return [parameter.grad.clone() for parameter in unet.parameters()]

    plain = gradients()
    with accelerated(unet, AgentAttention(window=(0, 1))) as accelerator:
        assert all(torch.equal(a, b) for a, b in zip(gradients(), plain))
        report = accelerator.report()
        assert guided.codes(report.as_dict()) == ["derivatives: gradients"]
        assert report.as_dict()["methods"][0]["layers"] == 0
        models.call(unet)
        assert accelerator.report().as_dict()["methods"][0]["layers"] == 3
    assert all(torch.equal(a, b) for a, b in zip(gradients(), plain))


@both
def test_inference_mode(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, TokenMerging(plan_every=2)):
        enabled = models.one_pass(unet)
        with torch.inference_mode():
            assert torch.equal(models.one_pass(unet), enabled)
        with torch.inference_mode():
            first = models.call(unet, models.inputs(timestep=999))
        assert torch.equal(torch.stack([first, models.call(unet, models.inputs(timestep=399))]), enabled)
