"""Pipelines that call their transformer more than once a step: all that is combined is served, or nothing is."""

import pytest
import torch
import transformers_tiny as tiny

from lib_accel import Forecast, accelerated

STEPS = 16
FREE = Forecast(tolerance=1000.0, largest_gap=1, last=2)


def built(name):
    made, why = tiny.build(name)
    assert made is not None, why
    made.given["num_inference_steps"] = STEPS
    return made


def drawn(made, method=FREE, **more):
    with accelerated(made.pipe, method) as accelerator:
        out = made.draw(**more)
    return out, accelerator.report().as_dict()


def steps_of(report):
    return [one["steps"] for one in report["methods"][0]["served"]]


@pytest.mark.parametrize("name", ["WanPipeline", "QwenImagePipeline"])
def test_a_negative_prompt_that_is_the_prompt(name):
    """Both predictions are the same then, forecast or not: guidance changes nothing."""
    made = built(name)
    own = {f"negative_{key}": made.given[key] for key in ("prompt_embeds", "prompt_embeds_mask") if made.given.get(key) is not None}
    scale = "guidance_scale" if name == "WanPipeline" else "true_cfg_scale"
    unguided, one = drawn(made, **{scale: 1.0})
    guided, both = drawn(made, **own, **{scale: 5.0})
    assert steps_of(both) == steps_of(one) and both["calls_served"] == 2 * one["calls_served"] > 0
    assert (both["unet_calls"], one["unet_calls"]) == (2 * STEPS, STEPS)
    torch.testing.assert_close(guided, unguided, atol=1e-3, rtol=1e-3)


def test_nothing_is_served_beside_a_call_that_nobody_knows():
    """Skip-layer guidance weighs a third call against the prompt's: with the one forecast and the other not, it would weigh the error."""
    sd3 = built("StableDiffusion3Pipeline")
    skipped = {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.0}
    plain = sd3.draw(**skipped, skip_layer_guidance_stop=1.0)
    out, report = drawn(sd3, **skipped, skip_layer_guidance_stop=1.0)
    (reason,) = report["methods"][0]["reasons"]
    assert torch.equal(out, plain) and report["calls_served"] == 0 and report["unet_calls"] > STEPS
    assert (reason["code"], reason["why"]["code"]) == ("no_forecast", "rows_unknown")
    # Its last step is 7; the one behind it still goes by that one.
    _, report = drawn(sd3, **skipped, skip_layer_guidance_stop=0.5)
    (served,) = steps_of(report)
    assert served and min(served) == 9
