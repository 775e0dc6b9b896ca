"""Prompt-to-Prompt beside other methods, through failures, and leaving no trace."""

import json

import guided
import models
import prompts
import pytest
import torch
import traces

from lib_accel import AgentAttention, GuidanceSkip, ImageEdit, PromptToPrompt, Row, TGate, TokenDownsampling, TokenMerging, accelerated
from lib_accel.ops import attention_edits
from lib_accel.prompt_to_prompt import Edit, mix

TOKENS = prompts.Words(8)
MIXING = mix(TOKENS("a cat on sand"), TOKENS("a dog on sand"), Edit(), 0.5)
ROWS = [Row("uncond", 0), Row("uncond", 1), Row("cond", 0), Row("cond", 1)]


def method(**more):
    return PromptToPrompt([ImageEdit(1, 0, (MIXING,), 0.5)], **({"self_layers": "all"} | more))


def inputs(index):
    given = models.inputs(4)
    given.text = torch.randn(4, 8, models.WIDTH, generator=torch.Generator().manual_seed(index))
    return given


def run(unet, *methods, steps=4):
    with accelerated(unet, *methods) as accelerator:
        out = []
        for index in range(steps):
            accelerator.step(index, steps, ROWS)
            out.append(models.call(unet, inputs(index)))
    return torch.stack(out), accelerator.report()


@pytest.fixture(scope="module")
def unet():
    return models.diffusers_unet()


@pytest.mark.parametrize("other", [TokenMerging(merge_crossattn=True), AgentAttention(window=(0, 1)), TokenDownsampling(deeper_factor=2)])
def test_where_a_layer_is_edited_others_stand_down(unet, other):
    """Inside the windows the edited layers are as with the edit alone; behind them the other method acts."""
    both, report = run(unet, method(), other)
    data = {entry["method"]: entry for entry in report.as_dict()["methods"]}
    assert data["PromptToPrompt"]["layers_by_effect"] == {"cross-attention": 7, "self-attention": 7}
    assert ("edited", "PromptToPrompt") in guided.layers_why(data[type(other).__name__])
    assert data["PromptToPrompt"]["steps"] == 2
    assert data[type(other).__name__]["steps"] == 2
    alone, _ = run(unet, method())
    torch.testing.assert_close(both[:2], alone[:2])
    assert not torch.equal(both[2:], alone[2:])


def test_others_act_on_layers_that_are_not_edited(unet):
    """Self-attention of the finest level is nobody's but the merging's."""
    _, report = run(unet, method(self_layers="1/2"), TokenMerging())
    data = {entry["method"]: entry for entry in report.as_dict()["methods"]}
    assert data["TokenMerging"]["steps"] == 4
    assert not data["TokenMerging"]["stood_down"]


def test_guidance_may_be_dropped_and_text_cached(unet):
    skipped, report = run(unet, method(), GuidanceSkip(when="after", after=0.5))
    alone, _ = run(unet, method())
    torch.testing.assert_close(skipped[:, 2:], alone[:, 2:], atol=1e-5, rtol=1e-4)
    assert report.as_dict()["methods"][1]["evaluations_saved"] == 4
    gated, report = run(unet, method(), TGate(gate=0.5))
    torch.testing.assert_close(gated[:2], alone[:2], atol=1e-5, rtol=1e-4)
    assert report.as_dict()["methods"][1]["evaluations_saved"] == 4


def test_the_account_is_plain_data(unet):
    _, report = run(unet, method())
    entry = json.loads(json.dumps(report.as_dict()))["methods"][0]
    assert entry["settings"]["self_source"] == "map"
    assert entry["changed"] == {"self_layers": "all"}
    assert entry["layers_by_effect"] == {"cross-attention": 7, "self-attention": 7}
    assert (entry["steps"], report.as_dict()["steps"]) == (2, 4)


@pytest.mark.parametrize(
    ("cross", "self_replace", "layers", "why"),
    [
        (0.0, 0.0, {}, "no_step"),
        (0.0, 0.5, {"self_layers": "=1/64"}, "no_layer"),
        (0.5, 0.5, {"self_layers": "=1/64", "cross_layers": "=1/64"}, "no_layer"),
    ],
)
def test_an_edit_of_nothing_says_why(unet, cross, self_replace, layers, why):
    mixing = mix(TOKENS("a cat on sand"), TOKENS("a dog on sand"), Edit(), cross)
    _, report = run(unet, PromptToPrompt([ImageEdit(1, 0, (mixing,), self_replace)], **layers))
    assert guided.codes(report.as_dict()["methods"][0]) == [f"nothing_edited: {why}"]
    # A window that opens late is no reason.
    late = mix(TOKENS("a cat on sand"), TOKENS("a dog on sand"), Edit(), (0.5, 1))
    _, report = run(unet, PromptToPrompt([ImageEdit(1, 0, (late,), 0.0)]))
    assert report.as_dict()["methods"][0]["idle"] is None
    assert report.as_dict()["methods"][0]["steps"] == 2


def test_nothing_is_left_behind(unet):
    before = traces.fingerprint(unet)
    plain = models.call(unet, inputs(0))
    run(unet, method())
    assert not traces.differences(before, traces.fingerprint(unet))
    assert torch.equal(models.call(unet, inputs(0)), plain)


def test_an_error_of_ours_leaves_the_picture_plain(unet, monkeypatch):
    monkeypatch.setenv("ACCEL_STRICT", "0")

    def fail(*args):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(attention_edits, "_mixed", fail)
    made, report = run(unet, method(self_source=None))
    assert report.as_dict()["methods"][0]["failed"].startswith("RuntimeError: out of luck")
    with accelerated(unet):
        plain = torch.stack([models.call(unet, inputs(index)) for index in range(4)])
    torch.testing.assert_close(made, plain)


def test_hypernetworks_and_upcasting_reach_edited_layers(unet):
    """The host's traits: keys and values from other inputs."""
    from lib_accel import HostTraits

    class Traits(HostTraits):
        asked = 0

        def kv_inputs(self, attn, context):
            Traits.asked += 1
            return 1.5 * context, -context

        def upcast(self, attn):
            return True

    def out(traits):
        with accelerated(unet, method(self_source=None), traits=traits) as accelerator:
            accelerator.step(0, 4, ROWS)
            return models.call(unet, inputs(0))

    assert not torch.allclose(out(Traits()), out(None))
    assert Traits.asked == 7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    models.need(dtype)
    unet = models.in_dtype(models.diffusers_unet(), dtype)
    given = models.inputs(4, dtype=dtype)
    given.text = torch.randn(4, 8, models.WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)
    with accelerated(unet, method()) as accelerator:
        accelerator.step(0, 4, ROWS)
        out = models.call(unet, given)
    whole = models.diffusers_unet()
    given.latents, given.text = given.latents.float(), given.text.float()
    with accelerated(whole, method()) as accelerator:
        accelerator.step(0, 4, ROWS)
        wanted = models.call(whole, given)
    assert out.dtype == dtype
    assert (out.float() - wanted).abs().max() < 0.1 * wanted.abs().max()
