"""Hooks that somebody put on a model by torch's own means: whatever they are given is what they would be given without Accel."""

import guided
import models
import pytest
import torch
import transformers_tiny as tiny

from lib_accel import DeepCache, Forecast, GuidanceSkip, TGate, TokenMerging, accelerated
from lib_accel.backends import known

EULER, STEPS = "EulerDiscreteScheduler", 12
UNGUIDED = GuidanceSkip(when="after", after=0.4)
EAGER = Forecast(tolerance=1000.0, largest_gap=1, last=1)
MIDDLE, ATTENTION = "mid_block", "mid_block.attentions.0.transformer_blocks.0"


@pytest.fixture(autouse=True)
def unknown(monkeypatch):
    """Hooks of this file are somebody's."""
    monkeypatch.setattr(known, "TORCH_HOOKS", known.TORCH_HOOKS - {__name__})


def tensor_of(out):
    return out[0] if isinstance(out, tuple) else getattr(out, "sample", out)


def mixed(module, args, out):
    """Style sharing: both halves of a guided batch are looked at together."""
    negative, positive = tensor_of(out).chunk(2)
    return torch.cat([negative, positive + 0.3 * (positive - negative)])


def drawn(pipe, *methods):
    with accelerated(pipe, *methods) as accelerator:
        out = models.picture(
            pipe, STEPS, size=64, latents=torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), num_images_per_prompt=2
        )
    return out, accelerator.report().as_dict()


@pytest.mark.parametrize("place", [MIDDLE, "up_blocks.1", f"{ATTENTION}.attn2"])
@pytest.mark.parametrize("method", [UNGUIDED, TGate(gate=0.4)], ids=lambda method: type(method).__name__)
def test_rows_that_a_hook_pairs_all_run(method, place):
    """On the rows of two pictures alone such a hook would mix the pictures; on the row of one it would fail."""
    pipe = models.pipeline(schedule=EULER)
    pipe.unet.get_submodule(place).register_forward_hook(mixed)
    _, report = drawn(pipe, method)
    (told,) = report["methods"]
    assert report["rows_run"] == report["rows"] and told["evaluations_saved"] == 0
    assert any(code.endswith("torch_hook") for code in guided.codes(told)) and __name__ in str(told["reasons"])


@pytest.mark.parametrize("before", [True, False])
def test_hooks_on_the_unet_itself_see_every_row(before):
    pipe, seen = models.pipeline(schedule=EULER), []

    def count(module, args, kwargs):
        seen.append(len(args[0]))

    def counted(module, args, out):
        seen.append(len(tensor_of(out)))

    def hook():
        pipe.unet.register_forward_pre_hook(count, with_kwargs=True)
        pipe.unet.register_forward_hook(counted)

    if before:
        hook()
    with accelerated(pipe, UNGUIDED) as accelerator:
        if not before:
            hook()
        models.picture(pipe, STEPS, size=64)
    assert set(seen) == {2}
    # One of the two comes between the hooks of Accel, whichever came first.
    (told,) = accelerator.report().as_dict()["methods"]
    assert any(code.endswith("torch_hook") for code in guided.codes(told))


def test_a_hook_that_comes_before_ours_and_asks_nothing_of_the_output_is_in_nobodys_way():
    pipe = models.pipeline(schedule=EULER)
    pipe.unet.register_forward_pre_hook(lambda module, args: None)
    _, report = drawn(pipe, UNGUIDED)
    assert report["methods"][0]["evaluations_saved"] > 0


@pytest.mark.parametrize("place", [MIDDLE, "down_blocks.2.resnets.0", "up_blocks.0.upsamplers.0"])
def test_no_hook_is_given_what_stands_for_a_stage_that_does_not_run(place):
    pipe, seen = models.pipeline(schedule=EULER), []
    pipe.unet.get_submodule(place).register_forward_hook(lambda module, args, out: seen.append(float(tensor_of(out).mean())))
    plain = models.picture(pipe, STEPS, size=64)
    seen.clear()
    with accelerated(pipe, DeepCache()) as accelerator:
        out = models.picture(pipe, STEPS, size=64)
    (told,) = accelerator.report().as_dict()["methods"]
    assert torch.equal(out, plain) and len(seen) == STEPS
    assert guided.codes(told) == ["stages_run: torch_hook"]


def test_a_hook_on_a_shallow_stage_leaves_the_deep_ones_served():
    pipe = models.pipeline(schedule=EULER)
    pipe.unet.up_blocks[-1].resnets[-1].register_forward_hook(lambda module, args, out: None)
    _, report = drawn(pipe, DeepCache())
    assert report["methods"][0]["shallow_steps"] > 0


def test_the_webuis_own_hooks_that_move_blocks_are_in_nobodys_way():
    """With --lowvram one is on every block; it asks nothing of what the block is given."""
    pipe, home = models.pipeline(schedule=EULER), {"__name__": "modules.lowvram"}
    exec("moved = []\ndef move(module, args): moved.append(module)", home)
    for module in (pipe.unet.mid_block, *pipe.unet.down_blocks, *pipe.unet.up_blocks):
        module.register_forward_pre_hook(home["move"])
    _, report = drawn(pipe, UNGUIDED, DeepCache())
    assert report["methods"][0]["evaluations_saved"] > 0 and report["methods"][1]["shallow_steps"] > 0 and home["moved"]


def test_layers_whose_projections_carry_a_hook_run_on_all_tokens():
    pipe, seen = models.pipeline(schedule=EULER), []
    layers = [module for name, module in pipe.unet.named_modules() if name.endswith("attn1")]
    layers[0].to_q.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
    with accelerated(pipe, TokenMerging(max_downsample=8)) as accelerator:
        models.picture(pipe, 2, size=64)
    assert set(seen) == {64}
    assert guided.layers_why(accelerator.report().as_dict()["methods"][0]) == {("torch_hook", __name__, "attn1.to_q"): 1}


def test_a_transformer_with_a_hook_inside_runs_every_call():
    """It may count them: TeaCache's kind does."""
    built, seen = tiny.build("FluxPipeline")[0], []
    built.given["num_inference_steps"] = STEPS
    built.pipe.transformer.transformer_blocks[0].register_forward_hook(lambda *_: seen.append(1))
    with accelerated(built.pipe, EAGER) as accelerator:
        built.draw()
    assert len(seen) == STEPS and guided.codes(accelerator.report().as_dict()["methods"][0]) == ["calls_run: torch_hook"]
