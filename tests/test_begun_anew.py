"""What methods remember ends with the pass, the model and the prompts: the first step after that learns anew, whatever the settings."""

import guided
import models
import pytest
import torch

from lib_accel import GuidanceSkip, accelerated
from lib_accel.methods.registry import METHODS

both = pytest.mark.parametrize("kind", models.BOTH)


@both
@pytest.mark.parametrize(
    "settings", [GuidanceSkip("after", after=0.25, reuse=True), GuidanceSkip("outside", sigma_low=1e-3, sigma_high=0.1, reuse=True)]
)
def test_a_direction_is_asked_for_again(kind, settings):
    """As after the WebUI's refiner: the host goes on at step 4 of 8 with another model, whose pass is new."""
    unet = models.UNETS[kind]()
    ran = guided.rows_run(unet)
    with accelerated(unet, settings) as accelerator:
        for index in range(4):
            guided.step(unet, accelerator, index, 8, guidance=7.0, sigma=9.0 - index)
        accelerator.new_pass()
        ran.clear()
        for index in range(4, 8):
            guided.step(unet, accelerator, index, 8, guidance=7.0, sigma=9.0 - index)
    assert ran == [2, 1, 1, 1]
    assert guided.account(accelerator)["unguided_steps"] == 0


def test_at_guidance_scale_1_nothing_is_asked_for():
    unet = models.diffusers_unet()
    ran = guided.rows_run(unet)
    with accelerated(unet, GuidanceSkip("after", after=0.25, reuse=True)) as accelerator:
        guided.passes(unet, accelerator, 4, guidance=1.0)
    assert ran == [1] * 4


def test_unknown_rows_still_say_why():
    unet = models.diffusers_unet()
    with accelerated(unet, GuidanceSkip("after", after=0.25, reuse=True)) as accelerator:
        models.one_pass(unet, (999, 700, 400, 100))
    assert guided.codes(guided.account(accelerator)) == ["guidance_kept: rows_unknown"]


@both
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_a_pass_that_goes_on_with_a_new_model_is_as_one_that_begins_there(kind, method):
    """Whatever was remembered of other prompts and another model leaves no trace, for every method of the registry."""

    def tail(before):
        unet = models.UNETS[kind]()
        with accelerated(unet, method.example(), auto=False) as accelerator:
            for index in range(before):
                guided.step(unet, accelerator, index, 4, guidance=7.0, sigma=9.0 - index, timestep=300 - index)
            accelerator.new_pass()
            outs = [guided.step(unet, accelerator, index, 4, guidance=7.0, sigma=9.0 - index) for index in (2, 3)]
        return torch.stack([torch.cat([one.flatten() for one in out.values()]) for out in outs])

    assert torch.equal(tail(2), tail(0))
