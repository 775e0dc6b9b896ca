"""The account: one honest line, and the same as data."""

import gc
import json
import pickle

import cases
import guided
import models
import pytest

from lib_accel import AgentAttention, GuidanceSkip, TokenMerging, accelerated
from lib_accel.core.step_count import StepCount

both = pytest.mark.parametrize("kind", models.BOTH)


@both
@pytest.mark.parametrize("method", cases.METHODS)
def test_one_line_and_data(kind, method):
    unet = models.UNETS[kind]()
    with accelerated(unet, *cases.METHODS[method]) as accelerator:
        models.one_pass(unet)
    report = accelerator.report()
    line, data = str(report), report.as_dict()
    assert line.startswith("Accel: ")
    assert line.endswith(".")
    assert "\n" not in line
    assert json.loads(json.dumps(data))["backend"] == kind
    assert [one["method"] for one in data["methods"]] == [type(config).__name__ for config in cases.METHODS[method]]
    assert data["seconds"] > 0
    assert data["stood_down"] == []


@both
def test_words(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, *cases.METHODS["stages"]) as accelerator:
        models.one_pass(unet)
        line = str(accelerator.report())
    assert "AgentAttention: agents on 3, merging on 3 of 7 layers for 1 of 2 steps" in line
    assert "TokenMerging: merging on 3 of 7 layers for 1 of 2 steps" in line
    assert "2 steps, 2 U-Net calls in " in line


@both
def test_no_call_was_seen(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, TokenMerging()) as accelerator:
        pass
    models.call(unet)
    report = accelerator.report()
    assert "TokenMerging: 0 of 7 layers" in str(report)
    assert "no U-Net call was seen" in str(report)
    assert report.as_dict()["unet_calls"] == 0


@both
def test_valid_after_removal_and_without_the_model(kind):
    unet = models.UNETS[kind]()
    accelerator = accelerated(unet, AgentAttention(window=(0, 1)))
    models.call(unet)
    early = accelerator.report()
    line = str(early)
    models.call(unet)
    accelerator.remove()
    del unet
    gc.collect()
    assert str(early) == line
    assert accelerator.report().as_dict()["unet_calls"] == 2
    assert "agents on 3" in str(accelerator.report())


@both
def test_a_call_outside_all_windows(kind):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    with accelerated(unet, TokenMerging(window=(0.5, 1))) as accelerator:
        assert (models.call(unet) == plain).all()
    assert "TokenMerging: 0 of 7 layers" in str(accelerator.report())
    assert "1 step, 1 U-Net call in" in str(accelerator.report())


@both
def test_a_failed_call_counts_as_a_call(kind):
    unet = models.UNETS[kind]()

    def failing(*_):
        raise ValueError

    with accelerated(unet, TokenMerging()) as accelerator:
        handle = next(module for name, module in unet.named_modules() if name.endswith("attn2")).register_forward_hook(failing)
        with pytest.raises(ValueError):
            models.call(unet)
        handle.remove()
    assert accelerator.report().as_dict()["unet_calls"] == 1


@both
@pytest.mark.parametrize(("reuse", "unguided", "kept"), [(False, 3, 0), (True, 0, 3)])
def test_steps_in_a_kept_direction_are_told_from_unguided_ones(kind, reuse, unguided, kept):
    unet = models.UNETS[kind]()
    with accelerated(unet, GuidanceSkip(when="after", after=0.4, reuse=reuse)) as accelerator:
        guided.passes(unet, accelerator)
    account = guided.account(accelerator)
    assert (account["unguided_steps"], account["kept_direction_steps"], account["evaluations_saved"]) == (unguided, kept, 3)
    line = str(accelerator.report())
    words = "guidance direction kept" if reuse else "no guidance"
    assert f"GuidanceSkip: {words} for 3 of 5 steps, 3 evaluations saved." in line
    assert line.count("for 3 of 5 steps") == 1


def test_steps_of_passes_that_are_over_are_kept_as_a_number():
    """A model that stays accelerated for days draws many."""
    steps = StepCount()
    for number in range(1, 2001):
        for step in (0, 1, 1, 2, 0):
            steps.add((number, step))
    assert len(steps) == 6000 and steps
    assert len(pickle.dumps(steps)) < 1000
    assert not StepCount()
