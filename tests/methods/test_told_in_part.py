"""Why nothing was left out is told as that only where nothing was: not where other steps, passes or jobs went another way."""

import models
import pytest
import torch
import transformers_tiny as tiny
from guided import codes

from lib_accel import DeepCache, Forecast, accelerated
from lib_accel.core.reasons import as_data, as_true, data_as_true

EAGER = Forecast(tolerance=1000.0, largest_gap=1, last=1)
STEPS = 12


def drawn(pipe, *methods, schedules=("EulerDiscreteScheduler",), **more):
    with torch.no_grad(), accelerated(pipe, *methods) as accelerator:
        for schedule in schedules:
            pipe.scheduler = models.scheduler(schedule)
            models.picture(pipe, STEPS, size=64, **more)
    return accelerator.report()


@pytest.mark.parametrize("schedules", [("HeunDiscreteScheduler", "EulerDiscreteScheduler"), ("EulerDiscreteScheduler", "LCMScheduler")])
def test_another_sampler_in_another_job(schedules):
    report = drawn(models.pipeline(), EAGER, schedules=schedules)
    (told,) = report.as_dict()["methods"]
    assert told["served"] and [code.split(":")[0] for code in codes(told)] == ["not_all_forecast"]
    assert "no step was forecast" not in str(report) and "some steps could not be forecast: " in str(report)


def test_a_call_by_hand_beside_shallow_steps():
    """Some extensions preview a picture from a callback with a call of their own."""

    def previews(pipe, index, timestep, tensors):
        if index == STEPS - 3:
            pipe.unet(tensors["latents"], timestep, models.prompt()["prompt_embeds"])
        return {}

    report = drawn(models.pipeline(), DeepCache(), callback_on_step_end=previews)
    (told,) = report.as_dict()["methods"]
    assert told["shallow_steps"] and codes(told) == ["partly_in_whole: beside_the_loop"]
    assert "every step ran the whole U-Net" not in str(report)


def test_a_third_call_in_a_part_of_the_steps():
    """Skip-layer guidance of Stable Diffusion 3.5; the words are those of a transformer."""
    sd3, why = tiny.build("StableDiffusion3Pipeline")
    assert sd3 is not None, why
    sd3.given["num_inference_steps"] = 16
    with accelerated(sd3.pipe, Forecast(tolerance=1000.0, largest_gap=1, last=2)) as accelerator:
        sd3.draw(skip_guidance_layers=[0], skip_layer_guidance_start=0.0, skip_layer_guidance_stop=0.5)
    (told,) = accelerator.report().as_dict()["methods"]
    assert told["served"] and codes(told) == ["not_all_forecast: rows_unknown"]


def test_where_nothing_was_left_out_that_is_told():
    report = drawn(models.pipeline(), EAGER, schedules=("HeunDiscreteScheduler", "PNDMScheduler"))
    assert str(report).count("no step was forecast") == 2
    assert codes(report.as_dict()["methods"][0]) == ["no_forecast: evaluations", "no_forecast: no_better"]


def test_reports_that_are_told_as_one():
    """As those of a job's batches are in a WebUI."""
    notes = [note for name in ("Heun", "PNDM") for note in told_of(name)]
    assert [note.code for note in as_true(notes, acted=False)] == ["no_forecast"] * 2
    other = {"code": "other", "text": "something else"}
    reasons = data_as_true([as_data(notes[0]), other, as_data(notes[1]), as_data(notes[0])], notes)
    assert [one["code"] for one in reasons] == ["not_all_forecast", "other", "not_all_forecast"]
    assert [one["text"] for one in reasons if one is not other] == sorted(as_true(notes, acted=True))


def told_of(name):
    report = drawn(models.pipeline(), EAGER, schedules=(f"{name}Scheduler" if name == "PNDM" else f"{name}DiscreteScheduler",))
    return report.as_dict()["methods"][0]["notes"]
