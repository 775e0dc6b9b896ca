"""T-GATE and guidance skipping on diffusers pipelines: the pipeline's own formula gives exactly the prediction that is kept."""

import diffusers
import guided
import models
import pytest
import torch

from lib_accel import GuidanceSkip, TGate, TokenMerging, accelerated

PICTURE = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))


def inpainting(unet_channels):
    unet = models.diffusers_unet(in_channels=unet_channels)
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., :64] = 1
    return models.pipeline(unet, "StableDiffusionInpaintPipeline"), {"image": PICTURE, "mask_image": mask, "strength": 1.0}


def controlled():
    unet = models.diffusers_unet()
    control = models.lively(diffusers.ControlNetModel.from_unet(unet, conditioning_channels=3), 5)
    return models.pipeline(unet, "StableDiffusionControlNetPipeline", controlnet=control), {"image": PICTURE}


def latent_consistency():
    unet = models.diffusers_unet(time_cond_proj_dim=8)
    pipe = models.pipeline(unet, "LatentConsistencyModelPipeline", "LCMScheduler")
    return pipe, {"negative_prompt_embeds": None}


PIPELINES = {
    "text": lambda: (models.pipeline(), {}),
    "sdxl": lambda: (models.pipeline(models.diffusers_unet_sdxl(), "StableDiffusionXLPipeline"), {}),
    "image": lambda: (models.pipeline(kind="StableDiffusionImg2ImgPipeline"), {"image": PICTURE, "strength": 1.0}),
    "inpainting": lambda: inpainting(4),
    "inpainting-9": lambda: inpainting(9),
    "controlnet": controlled,
    "controlnet-guess": lambda: (lambda pipe, given: (pipe, given | {"guess_mode": True}))(*controlled()),
}


def unguided(pipe, after, given, steps=5, **more):
    """The same picture by plain means: from step ``after`` on the pipeline is given the cond prediction for both halves."""
    place = {"step": -1, "timestep": None}

    def hook(module, args, kwargs, out):
        timestep = float(torch.as_tensor(args[1]).flatten()[0])
        if timestep != place["timestep"]:
            place["step"] += 1
            place["timestep"] = timestep
        if place["step"] >= after:
            out = (out[0] if isinstance(out, tuple) else out.sample).clone()
            half = len(out) // 2
            out[:half] = out[half:]
            return (out,)
        return None

    handle = pipe.unet.register_forward_hook(hook, with_kwargs=True)
    picture = models.picture(pipe, steps, **given, **more)
    handle.remove()
    return picture


@pytest.mark.parametrize("kind", PIPELINES)
def test_without_guidance_from_a_step_on(kind):
    """GuidanceSkip leaves attention alone, so the picture is known; T-GATE drops the same rows."""
    pipe, given = PIPELINES[kind]()
    wanted = unguided(pipe, 2, given)
    plain = models.picture(pipe, 5, **given)
    ran = guided.rows_run(pipe.unet)
    with accelerated(pipe, GuidanceSkip(when="after", after=0.4)) as accelerator:
        torch.testing.assert_close(models.picture(pipe, 5, **given), wanted, atol=2e-3, rtol=1e-3)
    assert ran == [2, 2, 1, 1, 1]
    account = accelerator.report().as_dict()["methods"][0]
    assert (account["unguided_steps"], account["evaluations_saved"]) == (3, 3)
    ran.clear()
    with accelerated(pipe, TGate(gate=0.4)) as accelerator:
        gated = models.picture(pipe, 5, **given)
        assert torch.equal(models.picture(pipe, 5, **given), gated)
    assert ran == 2 * [2, 2, 1, 1, 1]
    assert not torch.allclose(gated, plain, atol=1e-2)
    assert guided.account(accelerator)["notes"] == []
    assert torch.equal(models.picture(pipe, 5, **given), plain)


@pytest.mark.parametrize("kind", ["text", "sdxl"])
def test_several_images_and_rescaled_guidance(kind):
    pipe, _ = PIPELINES[kind]()
    given = models.prompt(3, pooled=kind == "sdxl") | {"guidance_rescale": 0.7}
    wanted = unguided(pipe, 2, given)
    ran = guided.rows_run(pipe.unet)
    with accelerated(pipe, GuidanceSkip(when="after", after=0.4)):
        torch.testing.assert_close(models.picture(pipe, 5, **given), wanted, atol=2e-3, rtol=1e-3)
    assert ran == [6, 6, 3, 3, 3]


def test_latent_consistency():
    """One row per picture from the start: cross-attention is served, nothing is dropped."""
    pipe, given = latent_consistency()
    plain = models.picture(pipe, 4, **given)
    ran = guided.rows_run(pipe.unet)
    with accelerated(pipe, TGate(gate=0.4, cache="mean")) as accelerator:
        gated = models.picture(pipe, 4, **given)
    assert ran == [1] * 4
    assert (guided.account(accelerator)["steps"], guided.account(accelerator)["evaluations_saved"]) == (2, 0)
    assert not torch.allclose(gated, plain, atol=1e-3)


@pytest.mark.parametrize("schedule", ["EulerAncestralDiscreteScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler"])
def test_other_schedulers(schedule):
    pipe = models.pipeline(schedule=schedule)
    ran = guided.rows_run(pipe.unet)
    with accelerated(pipe, TGate(gate=0.4)) as accelerator:
        models.picture(pipe, 5)
    assert ran == ([2] * 3 + [1] * 6 if "Heun" in schedule else [2, 2, 1, 1, 1])
    assert accelerator._runners[0]._caches.nbytes == 0


def kept(accelerator):
    return accelerator._runners[0]._caches.nbytes


def test_what_is_kept_is_freed_when_a_pass_ends_early():
    """SDXL's base model ends at a part of the noise, and leaves the rest to a refiner."""
    pipe = models.pipeline(models.diffusers_unet_sdxl(), "StableDiffusionXLPipeline")
    with accelerated(pipe, TGate(gate_step=2)) as accelerator:
        models.picture(pipe, 8, size=64, denoising_end=0.5, **models.prompt(pooled=True))
        assert accelerator.report().as_dict()["steps"] == 4
        assert guided.account(accelerator)["cache_bytes"] > 0 and kept(accelerator) == 0


@pytest.mark.parametrize("how", ["interrupted", "failed"])
@pytest.mark.parametrize("scale", [5.0, 1.0])
def test_what_is_kept_is_freed_when_a_run_is_broken_off(how, scale):
    pipe = models.pipeline()
    during = []

    def callback(pipe, index, timestep, tensors):
        during.append(kept(accelerator))
        if index == 3:
            pipe._interrupt = True
            if how == "failed":
                raise RuntimeError("enough")
        return {}

    with accelerated(pipe, TGate(gate_step=2)) as accelerator:
        try:
            models.picture(pipe, 8, size=64, guidance_scale=scale, callback_on_step_end=callback)
        except RuntimeError:
            assert how == "failed"
        assert all(during[1:4]) and kept(accelerator) == 0
        assert accelerator.report().as_dict()["unet_calls"] == 4
        # The next run is as any other.
        fresh = models.picture(pipe, 8, size=64, guidance_scale=scale)
    with accelerated(pipe, TGate(gate_step=2)):
        assert torch.equal(models.picture(pipe, 8, size=64, guidance_scale=scale), fresh)


def test_a_shortened_pass_has_its_own_gate():
    pipe = models.pipeline(kind="StableDiffusionImg2ImgPipeline")
    ran = guided.rows_run(pipe.unet)
    with accelerated(pipe, TGate(gate=0.4)):
        models.picture(pipe, 10, image=PICTURE, strength=0.5)
    assert ran == [2, 2, 1, 1, 1]


def test_tiles_stay_guided():
    """Of a picture made of several calls some would be guided and others not."""
    pipe = models.pipeline()
    models.picture(pipe, 1)
    pipe.scheduler.set_timesteps(4)
    ran = guided.rows_run(pipe.unet)
    with accelerated(pipe, TGate(gate_step=2)) as accelerator:
        for timestep in pipe.scheduler.timesteps:
            for _ in range(2):
                models.call(pipe.unet, models.inputs(timestep=float(timestep)))
    assert ran == [2] * 8
    assert "guidance_kept: too_many_calls" in guided.codes(guided.account(accelerator))


def test_tuples_and_together_with_merging():
    pipe = models.pipeline()
    ran = guided.rows_run(pipe.unet)
    with accelerated(pipe, TGate(gate=0.4), TokenMerging(ratio=0.5, plan_every=3)) as accelerator:
        models.picture(pipe, 5)
    assert ran == [2, 2, 1, 1, 1]
    assert [guided.account(accelerator, i)["failed"] for i in (0, 1)] == [None, None]
    assert guided.account(accelerator, 1)["steps"] == 5
