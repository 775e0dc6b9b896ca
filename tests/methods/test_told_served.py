"""Steps that a method says it served are those that were served, whatever the methods beside it make of a call."""

import models
from guided import codes

from lib_accel import DeepCache, Forecast, GuidanceSkip, TGate, accelerated

EAGER = Forecast(tolerance=1000.0, largest_gap=1, last=1)
STEPS = 16


def drawn(*methods, processor=None):
    """The report, and how many rows the last up stage got in each call that ran."""
    pipe, ran = models.pipeline(schedule="EulerDiscreteScheduler"), []
    if processor is not None:
        pipe.unet.up_blocks[-1].attentions[-1].transformer_blocks[0].attn1.set_processor(processor)
    pipe.unet.conv_out.register_forward_hook(lambda module, args, out: ran.append(len(out)))
    with accelerated(pipe, *methods) as accelerator:
        models.picture(pipe, STEPS, size=64)
    return accelerator.report().as_dict(), ran


def test_a_step_that_must_run_after_a_forecast_one_is_not_told_as_forecast():
    """The step before the gate keeps cross-attention; guidance ends in the same step, so one row of two does not run."""
    report, ran = drawn(EAGER, TGate(gate_step=11, drop_guidance=False), GuidanceSkip(when="after", after=10 / STEPS))
    (told,) = report["methods"][0]["served"]
    assert 9 in told["steps"] and 10 not in told["steps"]
    assert len(told["steps"]) == report["calls_served"] == STEPS - len(ran)


class Own:
    """A processor that nobody knows, in a layer that runs in every step."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        return attn.to_out[0](attn.to_v(hidden_states))


def test_a_forecast_that_was_refused_is_not_told_where_deep_stages_were_served_instead():
    report, ran = drawn(EAGER, DeepCache(), processor=Own())
    forecast, deep = report["methods"]
    assert codes(forecast) == ["calls_run: processor"] and not forecast["served"]
    assert deep["shallow_steps"] > 0 and len(ran) == STEPS + report["calls_measured"] and report["calls_served"] == 0
