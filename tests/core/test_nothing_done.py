"""Where a method did nothing, the report says why, whatever it was that left it nothing to do."""

import models
import pytest

from lib_accel import DeepCache, Forecast, GuidanceSkip, TGate, TokenMerging, accelerated

LATE = GuidanceSkip(when="after", after=0.5)


def ends_guidance(pipe, index, timestep, tensors):
    if index == 0:
        pipe._guidance_scale = 0.0
        tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
    return tensors


ENDED = {"callback_on_step_end": ends_guidance, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
JOBS = {
    "an empty window": ((TokenMerging(window=(0.3, 0.4)),), {}, "empty_window"),
    "no layer by its settings": ((TokenMerging(merge_attn=False),), {}, "nothing_to_do"),
    "guidance skipping behind T-GATE": ((GuidanceSkip(when="after", after=0.5, reuse=True), TGate(gate=0.5)), {}, "behind"),
    "T-GATE without caches": ((TGate(gate=1.0),), {}, "no_gate"),
    "an unguided job": ((LATE,), {"guidance_scale": 1.0}, "unguided_job"),
    "an unguided job by similarity": ((GuidanceSkip(threshold=0.0),), {"guidance_scale": 1.0}, "unguided_job"),
    "every step is guided": ((GuidanceSkip(when="after", after=0.5, every=1),), {}, "always_guided"),
    "every step is whole": ((DeepCache(every=1),), {}, "no_step_between"),
    "every step runs": ((Forecast(every=1),), {}, "no_forecast"),
    "deep stages that were too far off": ((DeepCache(tolerance=1e-9, warm_up=0.0),), {}, "kept_too_far_off"),
    "a guided part that is all": ((GuidanceSkip(when="after", after=1.0),), {}, "always_guided"),
    "guidance that a callback ended": ((LATE,), ENDED, "guidance_ended"),
}


@pytest.fixture(scope="module")
def pipe():
    return models.pipeline()


@pytest.mark.parametrize("methods, more, code", JOBS.values(), ids=JOBS)
def test_the_reason_is_told(pipe, methods, more, code):
    with accelerated(pipe, *methods) as accelerator:
        models.picture(pipe, 4, size=64, **more)
    data = accelerator.report().as_dict()
    idle = [method for method in data["methods"] if not (method["layers"] or method["evaluations_saved"] or method["shallow_steps"])]
    assert [reason["code"] for method in idle for reason in method["reasons"]] == [code]
    assert all(reason["text"] in str(accelerator.report()) for method in idle for reason in method["reasons"])


def test_a_method_that_acted_tells_none(pipe):
    with accelerated(pipe, LATE, TokenMerging()) as accelerator:
        models.picture(pipe, 4, size=64)
    assert [method["reasons"] for method in accelerator.report().as_dict()["methods"]] == [[], []]


def test_before_any_call_there_is_no_reason(pipe):
    with accelerated(pipe, TokenMerging(window=(0.3, 0.4))) as accelerator:
        assert accelerator.report().as_dict()["methods"][0]["idle"] is None
