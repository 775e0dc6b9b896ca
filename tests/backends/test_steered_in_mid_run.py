"""What callbacks change of a run besides texts and scale: the strength of LoRAs, SDXL's sizes, the size of the latents."""

import guided
import models
import numpy as np
import pytest
import torch
import transformers_tiny as tiny

from lib_accel import Forecast, GuidanceSkip, TGate, accelerated

GATE = TGate(gate=0.25)
EULER = "EulerDiscreteScheduler"
STEPS, AT = 12, 5


def at(change, *inputs):
    def callback(pipe, index, timestep, tensors):
        return (change(pipe, tensors) or {}) if index == AT else {}

    return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["latents", *inputs]}


def discarded(accelerator):
    return [(reason["code"], reason.get("what")) for reason in accelerator.report().as_dict()["reasons"]]


def with_lora(model):
    """``model`` with one LoRA, that changes what it predicts."""
    peft = pytest.importorskip("peft")
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False), "one")
    return models.lively(model)


def weaker(pipe, tensors):
    pipe._cross_attention_kwargs = {"scale": 0.0}


def weaker_in_place(pipe, tensors):
    pipe._cross_attention_kwargs["scale"] = 0.0


def as_strong(pipe, tensors):
    pipe._cross_attention_kwargs = {"scale": 1.0}


@pytest.mark.parametrize("change, acts", [(weaker, True), (weaker_in_place, True), (as_strong, False)])
def test_the_strength_of_a_lora_in_what_the_pipeline_was_called_with(change, acts):
    pipe = models.pipeline(with_lora(models.diffusers_unet()), schedule=EULER)
    with accelerated(pipe, GATE) as accelerator:
        models.picture(pipe, STEPS, size=64, cross_attention_kwargs={"scale": 1.0}, **at(change))
    assert discarded(accelerator) == ([("conditions_changed", "the adapters")] if acts else [])


def test_the_strength_of_a_lora_on_a_transformer():
    made, why = tiny.build("FluxPipeline")
    assert made is not None, why
    with_lora(made.pipe.transformer)
    made.given |= {"num_inference_steps": 16, "joint_attention_kwargs": {"scale": 1.0}}

    def weaker(pipe, index, timestep, tensors):
        if index == AT:
            pipe._joint_attention_kwargs = {"scale": 0.0}
        return {}

    with accelerated(made.pipe, Forecast(tolerance=1000.0)) as accelerator:
        made.draw(callback_on_step_end=weaker)
    assert discarded(accelerator) == [("conditions_changed", "the adapters")]


def test_the_sizes_that_sdxl_is_told():
    pipe = models.pipeline(models.diffusers_unet_sdxl(), "StableDiffusionXLPipeline", EULER)
    larger = at(lambda pipe, tensors: {"add_time_ids": tensors["add_time_ids"] * 2}, "add_time_ids")
    with accelerated(pipe, GATE) as accelerator:
        models.picture(pipe, STEPS, size=64)
        assert discarded(accelerator) == []
        models.picture(pipe, STEPS, size=64, **larger)
    assert discarded(accelerator) == [("conditions_changed", "the prompts")]


def larger(pipe, tensors):
    return {"latents": torch.nn.functional.interpolate(tensors["latents"], scale_factor=2.0)}


def test_a_direction_is_one_of_latents_of_this_size():
    """Where they were made larger the next step is guided, and its direction goes on."""
    pipe = models.pipeline(schedule=EULER)
    ran = guided.rows_run(pipe.unet)
    with accelerated(pipe, GuidanceSkip(when="after", after=0.25, reuse=True)) as accelerator:
        models.picture(pipe, STEPS, size=64, **at(larger))
    assert ran == [2] * 3 + [1] * (AT + 1 - 3) + [2] + [1] * (STEPS - AT - 2)
    assert guided.account(accelerator)["kept_direction_steps"] == STEPS - 4


def test_predictions_were_alike_at_this_size():
    pipe = models.pipeline(schedule=EULER)
    ran = guided.rows_run(pipe.unet)
    with accelerated(pipe, GuidanceSkip(threshold=0.0)):
        models.picture(pipe, STEPS, size=64, **at(larger))
    assert [step for step, rows in enumerate(ran) if rows == 2] == [0, AT + 1]


@pytest.mark.parametrize("last", [0, 2])
def test_noise_levels_by_hand_that_end_in_none(last):
    """A step at no noise goes nowhere, and is no error."""
    made, why = tiny.build("FluxPipeline")
    assert made is not None, why
    made.given |= {"num_inference_steps": 16, "sigmas": np.linspace(1.0, 0.0, 16).tolist()}
    with accelerated(made.pipe, Forecast(tolerance=1000.0, largest_gap=1, last=last)) as accelerator:
        out = made.draw()
    assert torch.isfinite(out).all() and guided.account(accelerator)["served"]
