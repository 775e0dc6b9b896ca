"""What a pipeline changes in mid-run, and what runs only a part of its schedule: what methods kept is of before."""

import gc
import sys
import weakref

import diffusers
import guided
import models
import numpy as np
import pytest
import torch
from test_pixart import picture as pixart_picture
from test_pixart import pixart

from lib_accel import DeepCache, Forecast, GuidanceSkip, TGate, TokenMerging, accelerated

EAGER = Forecast(tolerance=1000.0, largest_gap=1, last=1)
EULER = "EulerDiscreteScheduler"


def served(accelerator):
    (method,) = accelerator.report().as_dict()["methods"]
    return [one["steps"] for one in method["served"]]


def at_each(change):
    def callback(pipe, index, timestep, tensors):
        change(pipe, index, tensors)
        return tensors

    return {"callback_on_step_end": callback}


@pytest.mark.parametrize("window", ["control_guidance_end", "control_guidance_start"])
def test_no_step_is_continued_across_the_end_of_a_controlnet(window):
    unet = models.diffusers_unet()
    control = models.lively(diffusers.ControlNetModel.from_unet(unet, conditioning_channels=3), 5)
    pipe = models.pipeline(unet, "StableDiffusionControlNetPipeline", EULER, controlnet=control)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with accelerated(pipe, EAGER) as accelerator:
        models.picture(pipe, 20, size=64, image=image)
        whole = served(accelerator)[0]
    with accelerated(pipe, EAGER) as accelerator:
        models.picture(pipe, 20, size=64, image=image, **{window: 0.5})
        (cut,) = served(accelerator)
    # It warms up anew from step 10 on.
    assert set(whole) & {10, 11, 12} and not set(cut) & {10, 11, 12} and set(cut) & set(range(10)) and set(cut) & set(range(13, 20))


@pytest.mark.parametrize("channels", [9, 4])
@pytest.mark.parametrize("how", ["another", "in place"])
def test_no_step_is_continued_across_a_change_of_the_mask(channels, how):
    """A model that is not given the mask predicts the same whatever it is."""
    pipe = models.pipeline(models.diffusers_unet(in_channels=channels), "StableDiffusionInpaintPipeline", EULER)
    given = {"image": torch.rand(1, 3, 64, 64), "mask_image": torch.ones(1, 1, 64, 64), "strength": 1.0}

    def change(pipe, index, tensors):
        if index == 9:
            half = torch.ones_like(tensors["mask"])
            half[..., 4:] = 0
            if how == "another":
                tensors["mask"] = half
            else:
                tensors["mask"].copy_(half)

    with accelerated(pipe, EAGER) as accelerator:
        more = at_each(change) | {"callback_on_step_end_tensor_inputs": ["latents", "mask"]}
        models.picture(pipe, 20, size=64, **given, **more)
        (cut,) = served(accelerator)
    anew = not {*range(10, 15)} & {*cut}
    assert anew is (channels == 9) and {*cut} & {*range(10)} and {*cut} & {*range(15, 20)}


def test_offloading_that_takes_our_forward_away_after_every_picture():
    pipe, ran = models.pipeline(schedule=EULER), []
    pipe.enable_model_cpu_offload(device="cpu")
    pipe.unet.conv_in.register_forward_hook(lambda *given: ran.append(1))
    with accelerated(pipe, EAGER) as accelerator:
        for _ in range(3):
            models.picture(pipe, 12, size=64)
        report = accelerator.report().as_dict()
    assert report["calls_run"] == len(ran) == 27 and report["calls_served"] == 9 and not report["stood_down"]


def test_a_forward_that_takes_the_place_of_ours_in_mid_pass_is_believed_more_than_a_forecast():
    pipe = models.pipeline(schedule=EULER)
    plain = models.picture(pipe, 12, size=64)

    def forward(self, *given, **named):
        return type(self).forward(self, *given, **named)

    def replace(pipe, index, tensors):
        if index == 0:
            pipe.unet.forward = forward.__get__(pipe.unet)

    with accelerated(pipe, EAGER) as accelerator:
        drawn = models.picture(pipe, 12, size=64, **at_each(replace))
        report = accelerator.report().as_dict()
    assert torch.equal(drawn, plain) and served(accelerator) in ([], [[]])
    assert report["rows_run"] == report["rows"] and "forward_in_place_of_ours" in guided.codes(report)


@pytest.mark.parametrize("method", [EAGER, DeepCache(), GuidanceSkip(when="after", after=0.4, reuse=True), TGate(gate=0.4)], ids=str)
def test_where_pictures_are_dropped_the_others_get_nothing_of_theirs(method):
    pipe, noise = models.pipeline(schedule=EULER), torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def drawn(keep, order=(0, 1, 2, 3)):
        def drop(pipe, index, tensors):
            if index == 7:
                negative, positive = tensors["prompt_embeds"].chunk(2)
                tensors["latents"] = tensors["latents"][keep]
                tensors["prompt_embeds"] = torch.cat([negative[keep], positive[keep]])

        with accelerated(pipe, method) as accelerator:
            inputs = ["latents", "prompt_embeds"]
            latents = models.picture(
                pipe, 16, latents=noise[list(order)], num_images_per_prompt=4, callback_on_step_end_tensor_inputs=inputs, **at_each(drop)
            )
        return latents, accelerator.report()

    (first, _), (last, report) = drawn(slice(0, 2), (2, 3, 0, 1)), drawn(slice(2, 4))
    assert "the number of pictures" in str(report)
    torch.testing.assert_close(last, first, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [4.5, np.float32(4.5), torch.tensor(4.5)], ids=["float", "numpy", "tensor"])
def test_the_guidance_scale_is_known_whatever_holds_it(scale):
    pipe = models.pipeline(schedule=EULER)
    with accelerated(pipe, EAGER) as accelerator:
        models.picture(pipe, 12, size=64, guidance_scale=scale)
    assert served(accelerator)[0]


def test_a_guided_pixart_is_forecast():
    pipe = pixart()
    pipe.scheduler = models.scheduler(EULER)
    with accelerated(pipe, EAGER) as accelerator:
        pixart_picture(pipe, steps=14)
    assert served(accelerator)[0]


@pytest.mark.parametrize("method", [EAGER, DeepCache(), GuidanceSkip(when="after", after=0.4, reuse=True)], ids=str)
def test_a_scale_that_changes_in_every_step_leaves_what_was_kept(method):
    pipe = models.pipeline(schedule=EULER)

    def ramp(pipe, index, tensors):
        pipe._guidance_scale = 5.0 - 0.1 * index

    with accelerated(pipe, method) as accelerator:
        models.picture(pipe, 20, size=64, **at_each(ramp))
    report = accelerator.report().as_dict()
    (told,) = report["methods"]
    assert (told["served"] or told["shallow_steps"] or told["kept_direction_steps"]) and not report["stood_down"]


def test_what_a_callback_changes_of_the_scale_is_seen_before_what_the_loop_was_called_with():
    from types import SimpleNamespace

    from lib_accel.backends.told_texts import scale_of

    assert scale_of({"guidance_scale": 7.0}, SimpleNamespace(_guidance_scale=5.0)) == 5.0
    assert scale_of({"guidance_scale": 7.0, "true_cfg_scale": 4.0}, SimpleNamespace(_guidance_scale=5.0)) == 4.0
    assert scale_of({"guidance_scale": 7.0}, SimpleNamespace()) == 7.0 and scale_of({"guidance_scale": "x"}, SimpleNamespace()) is None


@pytest.mark.parametrize("method, most", [(Forecast(tolerance=1000.0, largest_gap=1, last=4), 7), (DeepCache(last=4), 7)], ids=str)
def test_the_last_steps_of_a_run_that_ends_early_always_run(method, most):
    pipe = models.pipeline(models.diffusers_unet_sdxl(), "StableDiffusionXLPipeline", EULER)
    seen = []
    with accelerated(pipe, method) as accelerator:
        where = accelerator._host.where
        at_call = where.at_call
        where.at_call = lambda *given: seen.append(at_call(*given)) or seen[-1]
        models.picture(pipe, 20, size=64, denoising_end=0.6)
    assert {moment.step.total for moment in seen} == {12} and all(len(moment.sigmas) == 13 for moment in seen)
    assert seen[0].sigmas == pytest.approx(pipe.scheduler.sigmas[:13].tolist())
    (told,) = accelerator.report().as_dict()["methods"]
    assert all(step <= most for one in told["served"] for step in one["steps"])


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "PNDMScheduler", "DDIMScheduler"])
def test_levels_are_those_of_steps_and_not_of_places(name):
    pipe, levels = models.pipeline(schedule=name), {}
    with accelerated(pipe, GuidanceSkip(when="after", after=0.9)) as accelerator:
        where = accelerator._host.where
        at_call = where.at_call

        def seen(*given):
            moment = at_call(*given)
            levels.setdefault(moment.step.index, []).append((moment.sigmas[moment.step.index], moment.noise().sigma))
            return moment

        where.at_call = seen
        models.picture(pipe, 10, size=64)
    assert sorted(levels) == list(range(len(levels)))
    for step, of_step in levels.items():
        told, true = of_step[-1]
        assert told == pytest.approx(true, rel=0.02), step
    assert [of_step[0][0] for of_step in levels.values()] == sorted((of_step[0][0] for of_step in levels.values()), reverse=True)


def test_continuous_timesteps_are_no_places_in_a_table():
    pipe = models.pipeline()
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(
        pipe.scheduler.config, timestep_type="continuous", prediction_type="v_prediction"
    )
    with accelerated(pipe, GuidanceSkip(when="outside", sigma_low=0.28, sigma_high=20.0)) as accelerator:
        models.picture(pipe, 10, size=64)
    unguided = sum(float(sigma) <= 0.28 for sigma in pipe.scheduler.sigmas[:-1])
    (told,) = accelerator.report().as_dict()["methods"]
    assert told["unguided_steps"] == unguided == 1


class App:
    def draw(self, *methods):
        """Whether the model is freed before the method that made it ends."""
        pipe = models.pipeline()
        unet = weakref.ref(pipe.unet)
        mine = locals() if methods and methods[0] == "locals" else None
        methods = [method for method in methods if not isinstance(method, str)]
        with accelerated(pipe, *methods):
            models.picture(pipe, 6, size=64)
        if mine is not None:
            return mine
        del pipe
        gc.collect()
        return unet() is None


def test_a_model_that_is_deleted_in_a_method_is_freed_there():
    assert App().draw(TokenMerging()) and App().draw(Forecast())


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="a frame's locals are a new copy each time")
def test_the_locals_that_somebody_asked_for_stay():
    assert "pipe" in App().draw("locals", TokenMerging())


def test_a_whole_graph_is_compiled_where_calls_may_be_served():
    pipe = models.pipeline(schedule=EULER)
    given = torch.randn(2, 4, 8, 8), torch.tensor(5), torch.randn(2, 5, models.WIDTH)
    with torch.no_grad(), accelerated(pipe, EAGER):
        compiled = torch.compile(pipe.unet, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(*given).sample, type(pipe.unet).forward(pipe.unet, *given).sample)


def test_why_nothing_was_forecast_is_true():
    pipe = models.pipeline(schedule=EULER)
    with accelerated(pipe, Forecast(window=(0, 0.2))) as accelerator:
        models.picture(pipe, 20, size=64)
    assert "ended before a step could be forecast" in str(accelerator.report())
    with accelerated(pipe, Forecast(tolerance=1e-9)) as accelerator:
        models.picture(pipe, 20, size=64)
    assert "too far off in every step" in str(accelerator.report())


def test_the_gate_tells_no_untrue_reason_where_the_scale_changes_in_every_step():
    def ramp(pipe, index, tensors):
        pipe._guidance_scale = 5.0 + 0.1 * index

    pipe = models.pipeline()
    with accelerated(pipe, TGate(gate_step=3)) as accelerator:
        models.picture(pipe, 8, size=64, **at_each(ramp))
        text = str(accelerator.report())
    assert "no step came after the gate" not in text and "the guidance scale changed" in text
    with accelerated(pipe, TGate(gate_step=8)) as accelerator:
        models.picture(pipe, 8, size=64)
        assert "no step came after the gate" in str(accelerator.report())
