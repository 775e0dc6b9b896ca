"""Forecast on diffusers pipelines: the scheduler tells the sampler and its noise levels, the pipeline its guidance."""

import diffusers
import guided
import models
import pytest
import torch
from guided import account

from lib_accel import Forecast, Row, accelerated
from lib_accel.backends.noise_levels import levels_of, sampler_of
from lib_accel.backends.pipeline import PipelineView
from lib_accel.core.samplers import SAMPLERS

PICTURE = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
FREE = Forecast(tolerance=1000.0, largest_gap=1, last=1)
STEPS = 9


def drawn(pipe, config, steps=STEPS, **more):
    with accelerated(pipe, *([config] if config else [])) as accelerator:
        latents = pipe(**models.prompt(), num_inference_steps=steps, guidance_scale=4.0, output_type="latent", **more).images
    return latents, accelerator.report().as_dict()


KARRAS = {"use_karras_sigmas": True}
FORECAST = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-karras": ("EulerDiscreteScheduler", KARRAS),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "2m": ("DPMSolverMultistepScheduler", {}),
    "2m-karras": ("DPMSolverMultistepScheduler", KARRAS),
    "2m-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "v": ("DDIMScheduler", {"prediction_type": "v_prediction"}),
    "zero-snr": ("DDIMScheduler", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
}


@pytest.mark.parametrize("case", FORECAST)
def test_schedulers_tell_what_it_takes(case):
    """Every second step behind the warm-up is served, and the picture is another one."""
    name, config = FORECAST[case]
    pipe = models.pipeline(schedule=name)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **config)
    plain, _ = drawn(pipe, None, generator=torch.Generator().manual_seed(3), height=128, width=128)
    served, report = drawn(pipe, FREE, generator=torch.Generator().manual_seed(3), height=128, width=128)
    (one,) = report["methods"][0]["served"]
    assert one["steps"] == [5, 7] and report["calls_served"] == 2 and report["unet_calls"] == STEPS
    assert torch.isfinite(served).all() and not torch.equal(served, plain)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("PNDMScheduler", "no_better"),
        ("HeunDiscreteScheduler", "evaluations"),
        ("LCMScheduler", "few_steps"),
        ("DDPMScheduler", "no_better"),
    ],
)
def test_other_schedulers_run_in_full(name, why):
    pipe = models.pipeline(schedule=name)
    given = {"height": 128, "width": 128}
    plain, _ = drawn(pipe, None, generator=torch.Generator().manual_seed(3), **given)
    kept, report = drawn(pipe, FREE, generator=torch.Generator().manual_seed(3), **given)
    assert torch.equal(kept, plain)
    assert guided.codes(report["methods"][0]) == [f"no_forecast: {why}"] and not report["methods"][0]["served"]


def test_a_scheduler_of_somebody_else_is_not_known():
    """Whatever its class is called."""
    own = type("EulerDiscreteScheduler", (diffusers.EulerDiscreteScheduler,), {})
    assert sampler_of(diffusers.EulerDiscreteScheduler()).name == "Euler"
    assert not sampler_of(own()).known


@pytest.mark.parametrize("case", ["euler-karras", "ddim", "2m-karras", "2m", "unipc"])
def test_levels_are_those_of_the_scheduler(case):
    """What the latents really hold of picture and noise at each timestep, and after the last step."""
    name, config = FORECAST[case]
    scheduler = getattr(diffusers, name)(beta_schedule="scaled_linear", **config)
    scheduler.set_timesteps(8)
    levels = levels_of(scheduler)
    assert len(levels) == 9 and list(levels) == sorted(levels, reverse=True)
    noise, picture = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    x = levels[0] * noise if name.startswith("Euler") else levels[0] / (1 + levels[0] ** 2) ** 0.5 * noise
    for step, timestep in enumerate(scheduler.timesteps):
        given = scheduler.scale_model_input(x, timestep)
        expected = levels[step] / (1 + levels[step] ** 2) ** 0.5
        assert given.item() == pytest.approx(expected, rel=1e-4), step
        x = scheduler.step(noise, timestep, x).prev_sample
    assert x.item() == pytest.approx(levels[-1] / (1 + levels[-1] ** 2) ** 0.5, abs=1e-4)
    assert torch.equal(picture, torch.zeros(1, 1, 1, 1))


@pytest.mark.parametrize(("name", "eta"), [("DDIMScheduler", 0.0), ("DDIMScheduler", 0.5), ("EulerDiscreteScheduler", 0.5)])
def test_noise_that_a_pipeline_tells_its_scheduler_to_add_is_known(monkeypatch, name, eta):
    """DDIM then steps as Euler a does; schedulers that cannot are not told, and stay what they are."""
    seen, ask = [], PipelineView.sampling
    monkeypatch.setattr(PipelineView, "sampling", lambda *given: seen.append(ask(*given)) or seen[-1])
    drawn(models.pipeline(schedule=name), FREE, eta=eta, generator=torch.Generator().manual_seed(3), height=64, width=64)
    noisy = eta > 0 and name == "DDIMScheduler"
    assert seen and {sampler.adds_noise for sampler, *_ in seen} == {noisy}
    assert {sampler.eta for sampler, *_ in seen} == {eta if noisy else 0.0}
    like = SAMPLERS["Euler a" if noisy else "Euler"].forecasting
    assert all(sampler.forecasting is like for sampler, *_ in seen)


def test_image_to_image_begins_late_in_the_schedule():
    """With its own warm-up; what is left is told."""
    pipe = models.pipeline(kind="StableDiffusionImg2ImgPipeline", schedule="EulerDiscreteScheduler")
    _, report = drawn(pipe, FREE, steps=18, image=PICTURE, strength=0.5)
    assert report["methods"][0]["served"] == [{"pass": 1, "picture": 0, "steps": [5, 7]}]
    _, report = drawn(pipe, FREE, steps=10, image=PICTURE, strength=0.3)
    assert not report["methods"][0]["served"] and "too_short" in guided.codes(report["methods"][0])


def test_pictures_of_a_batch_and_without_guidance():
    pipe = models.pipeline(schedule="EulerDiscreteScheduler")
    with accelerated(pipe, FREE) as accelerator:
        pipe(**models.prompt(2), num_inference_steps=STEPS, guidance_scale=1.0, output_type="latent", height=128, width=128)
    assert [one["picture"] for one in account(accelerator)["served"]] == [0, 1]


@pytest.mark.parametrize("kind", ["StableDiffusionXLPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionControlNetPipeline"])
def test_other_pipelines(kind):
    given, parts, unet = {}, {}, None
    if "XL" in kind:
        unet = models.diffusers_unet_sdxl()
    elif "Inpaint" in kind:
        unet = models.diffusers_unet(in_channels=9)
        given = {"image": PICTURE, "mask_image": torch.ones(1, 1, 128, 128), "strength": 1.0}
    else:
        unet = models.diffusers_unet()
        control = models.lively(diffusers.ControlNetModel.from_unet(unet, conditioning_channels=3), 5)
        given, parts = {"image": PICTURE}, {"controlnet": control}
    pipe = models.pipeline(unet, kind, "EulerDiscreteScheduler", **parts)
    with accelerated(pipe, FREE) as accelerator:
        out = models.picture(pipe, steps=STEPS, **given)
    assert [one["steps"] for one in account(accelerator)["served"]] == [[5, 7]] and torch.isfinite(out).all()


def test_a_bare_unet_of_diffusers():
    """By what is told; rows as a guided pipeline has them."""
    unet = models.diffusers_unet()
    scheduler = diffusers.EulerDiscreteScheduler()
    scheduler.set_timesteps(STEPS)
    levels = levels_of(scheduler)
    with accelerated(unet, FREE) as accelerator:
        for index in range(STEPS):
            rows = [Row("uncond"), Row("cond")]
            accelerator.step(index, STEPS, rows, guidance=4.0, sigma=levels[index], sampler="Euler", sigmas=levels)
            models.call(unet, models.inputs(2, 16, 16, timestep=float(scheduler.timesteps[index])))
    assert [one["steps"] for one in account(accelerator)["served"]] == [[5, 7]]
