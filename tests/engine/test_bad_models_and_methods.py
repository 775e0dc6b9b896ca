"""What Accel cannot act on gets one sentence that says what was looked for; the model stays untouched."""

from types import SimpleNamespace

import models
import pytest
import torch
from torch import nn
from traces import differences, fingerprint

from lib_accel import (
    AgentAttention,
    SettingError,
    TokenMerging,
    UnsupportedModelError,
    accelerated,
    apply_patch,
    is_patched,
    patch_report,
    remove_patch,
)


class StableDiffusion3Pipeline:
    """A pipeline without U-Net."""

    def __init__(self):
        self.transformer = nn.Linear(1, 1)
        self.scheduler = SimpleNamespace(timesteps=None)


@pytest.mark.parametrize(
    "model",
    [None, "runwayml/stable-diffusion-v1-5", 5, SimpleNamespace(model=None), StableDiffusion3Pipeline()],
    ids=["nothing", "name", "number", "namespace", "pipeline"],
)
@pytest.mark.parametrize("act", [apply_patch, lambda model: accelerated(model, TokenMerging()), remove_patch, is_patched, patch_report])
def test_no_unet_in_it(model, act):
    with pytest.raises(UnsupportedModelError) as error:
        act(model)
    sentence = str(error.value)
    assert type(model).__name__ in sentence
    for looked_for in (".unet", ".model.diffusion_model", "a U-Net module"):
        assert looked_for in sentence


def attention_free():
    return models.diffusers_unet(
        down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3, mid_block_type="UNetMidBlock2D", norm_num_groups=8
    )


def old_ldm():
    return models.ldm_unet(use_spatial_transformer=False, context_dim=None)


@pytest.mark.parametrize("build", [lambda: nn.Linear(4, 4), models.vae, attention_free, old_ldm, lambda: nn.Sequential(models.ldm_unet())])
def test_a_module_that_is_no_unet_that_accel_knows(build):
    model = build()
    before = fingerprint(model)
    for act in (apply_patch, lambda model: accelerated(model, AgentAttention())):
        with pytest.raises(UnsupportedModelError) as error:
            act(model)
        sentence = str(error.value)
        assert type(model).__name__ in sentence
        assert "input_blocks" in sentence
        assert "down_blocks" in sentence
    assert not is_patched(model)
    assert remove_patch(model) is model
    assert not differences(before, fingerprint(model))


@pytest.mark.parametrize("kind", models.BOTH)
@pytest.mark.parametrize(
    ("methods", "parts"),
    [
        ((AgentAttention(window=(0, 0.5)), TokenMerging(window=(0.4, 1))), ["(0.0, 0.5)", "(0.4, 1.0)", "attn1", "overlap"]),
        ((TokenMerging(), TokenMerging()), ["(0.0, 1.0)", "attn1"]),
        ((TokenMerging(merge_mlp=True), TokenMerging(merge_attn=False, merge_mlp=True)), [" on ff"]),
        ((AgentAttention(ratio=0), AgentAttention(ratio=0)), ["AgentAttention"]),
        ((TokenMerging,), ["is no method", "TokenMerging(ratio=0.5)"]),
        (("tome",), ["'tome' is no method"]),
        ((None,), ["None is no method"]),
    ],
)
def test_methods_that_cannot_be(kind, methods, parts):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    before = fingerprint(unet)
    with pytest.raises(SettingError) as error:
        accelerated(unet, *methods)
    sentence = str(error.value)
    assert all(part in sentence for part in parts), sentence
    assert "\n" not in sentence
    assert not is_patched(unet)
    assert not differences(before, fingerprint(unet))
    assert torch.equal(models.call(unet), plain)


@pytest.mark.parametrize(
    "bad", [{"ratio": -0.1}, {"ratio": 1.5}, {"ratio": float("nan")}, {"ratio": "a"}, {"sx": 0}, {"attn_precision": "fp8"}]
)
def test_a_bad_parameter_leaves_the_patch_that_was_there(bad):
    unet = models.ldm_unet()
    apply_patch(unet, ratio=0.3)
    enabled = models.call(unet)
    between = fingerprint(unet)
    with pytest.raises(SettingError, match=next(iter(bad))):
        apply_patch(unet, **bad)
    assert not differences(between, fingerprint(unet))
    assert is_patched(unet)
    assert torch.equal(models.call(unet), enabled)


@pytest.mark.parametrize("kind", models.BOTH)
def test_no_method_at_all(kind):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    before = fingerprint(unet)
    with accelerated(unet) as accelerator:
        assert torch.equal(models.call(unet), plain)
        assert not differences(before, fingerprint(unet))
    assert "no method was given" in str(accelerator.report())


def test_methods_that_act_on_different_parts_may_meet():
    unet = models.ldm_unet()
    with accelerated(unet, TokenMerging(ratio=0.3), TokenMerging(merge_attn=False, merge_mlp=True)) as accelerator:
        models.call(unet)
    assert [method["layers"] for method in accelerator.report().as_dict()["methods"]] == [3, 3]
