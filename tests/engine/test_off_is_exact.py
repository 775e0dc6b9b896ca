"""Plain, enabled, disabled: a method changes the picture while it is on, and nothing at all afterwards."""

import cases
import guided
import models
import pytest
import torch

from lib_accel import AgentAttention, TokenMerging, accelerated, apply_patch, is_patched, patch_report, remove_patch
from lib_accel.backends import backend_for


@pytest.mark.parametrize("method", cases.EVERY)
@pytest.mark.parametrize("kind", models.ALL)
def test_enabled_differs_and_disabled_equals_plain(kind, method):
    unet = models.ALL[kind]()
    plain = cases.plain_pass(kind, method)
    with accelerated(unet, *cases.EVERY[method]) as accelerator:
        enabled = cases.one_pass(unet, method, accelerator)
    disabled = cases.one_pass(unet, method)

    assert torch.isfinite(enabled).all() and torch.equal(disabled, plain)
    acted = accelerator.report().as_dict()["methods"]
    assert not any(one["failed"] for one in acted)
    if cases.needs_stages(method) and not backend_for(unet).find_stages(unet):
        assert torch.equal(enabled, plain) and all(one["off"] for one in acted)
        return
    # Methods on rows begin behind the first step. Calls that differ by their timestep alone are forecast well.
    served = cases.serves_calls(method) or cases.needs_stages(method)
    close = torch.allclose(enabled[-1], plain[-1], atol=1e-7 if served else 1e-3, rtol=1e-5)
    assert torch.equal(enabled, plain) if cases.watches(method) else not close
    assert all(one["layers"] or one["evaluations_saved"] or one["served"] or one["shallow_steps"] for one in acted)


@pytest.mark.parametrize("kind", ["StableDiffusionPipeline", "StableDiffusionXLPipeline"])
@pytest.mark.parametrize("method", ["agents", "stages"])
def test_pictures_of_a_pipeline(kind, method):
    pipe = models.pipeline(models.diffusers_unet_sdxl() if "XL" in kind else None, kind)
    plain = models.picture(pipe)
    with accelerated(pipe, *cases.METHODS[method]):
        enabled = models.picture(pipe)
    assert not torch.allclose(enabled, plain, atol=1e-2)
    assert torch.equal(models.picture(pipe), plain)


def test_pictures_with_a_controlnet():
    import diffusers

    unet = models.diffusers_unet()
    control = models.lively(diffusers.ControlNetModel.from_unet(unet, conditioning_channels=3), 5)
    pipe = models.pipeline(unet, "StableDiffusionControlNetPipeline", controlnet=control)
    given = {"image": torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))}
    plain = models.picture(pipe, **given)
    with accelerated(pipe, *cases.METHODS["stages"]) as accelerator:
        enabled = models.picture(pipe, **given)
    assert not torch.allclose(enabled, plain, atol=1e-2)
    assert torch.equal(models.picture(pipe, **given), plain)
    assert accelerator.report().as_dict()["steps"] == 5


@pytest.mark.parametrize("kind", models.UNETS)
@pytest.mark.parametrize(
    "off", [TokenMerging(ratio=0), AgentAttention(ratio=0, agent_ratio=0, window=(0, 1)), TokenMerging(merge_attn=False)]
)
def test_nothing_to_do_equals_plain(kind, off):
    unet, plain = models.UNETS[kind](), models.plain_pass(kind)
    with accelerated(unet, off) as accelerator:
        assert torch.equal(models.one_pass(unet), plain)
    assert accelerator.report().as_dict()["methods"][0]["layers"] == 0


@pytest.mark.parametrize("kind", models.UNETS)
def test_ratio_zero_with_agents_is_agent_attention_alone(kind):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    with accelerated(unet, AgentAttention(ratio=0, window=(0, 1))) as accelerator:
        assert not torch.allclose(models.call(unet), plain, atol=1e-3)
    method = accelerator.report().as_dict()["methods"][0]
    assert set(method["layers_by_effect"]) == {"agents"}
    assert method["tokens_run"] == method["tokens_in"] > 0


@pytest.mark.parametrize("kind", models.BOTH)
def test_two_functions(kind):
    unet = models.UNETS[kind]()
    holder = models.latent_diffusion(unet) if kind == "ldm" else unet
    plain = models.call(unet)
    assert not is_patched(holder)
    assert remove_patch(holder) is holder
    assert apply_patch(holder, ratio=0.4, sx=4, sy=4, agent_ratio=0.95) is holder
    assert is_patched(holder)
    assert is_patched(unet)
    assert not torch.equal(models.call(unet), plain)
    assert patch_report(holder).as_dict()["methods"][0]["layers_by_effect"]["agents"] == 3
    assert remove_patch(holder) is holder
    assert not is_patched(unet)
    assert patch_report(unet) is None
    assert torch.equal(models.call(unet), plain)


@pytest.mark.parametrize("kind", models.BOTH)
def test_published_defaults_never_use_agents_and_the_report_says_so(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, TokenMerging(ratio=0.5)):
        merged = models.call(unet)
    apply_patch(unet)
    assert torch.equal(models.call(unet), merged)
    report = patch_report(unet)
    assert guided.layers_why(report.as_dict()["methods"][0]) == {("agents_do_not_pay", 64, 128): 3}
    assert report.as_dict()["methods"][0]["layers_by_effect"] == {"merging": 3}
