"""Whole calls of a U-Net that are served: nothing runs, what others put on the U-Net still works, nothing is left."""

import copy
import pickle

import guided
import models
import pytest
import torch
from guided import COND, PAIR, UNCOND
from serving import ServeCalls, res_blocks_run
from torch import nn
from traces import differences, fingerprint

from lib_accel import GuidanceSkip, ImageEdit, PromptToPrompt, Row, TGate, accelerated
from lib_accel.engine.contract import Runner
from lib_accel.engine.instance_forward import InstanceForward

KINDS = [kind for kind in models.UNETS if "sd2" not in kind]
every_kind = pytest.mark.parametrize("kind", KINDS)
both = pytest.mark.parametrize("kind", models.BOTH)
TWO = (Row("uncond", 0), Row("uncond", 1), Row("cond", 0), Row("cond", 1))


def counts(accelerator):
    report = accelerator.report().as_dict()
    return tuple(report[name] for name in ("calls_run", "calls_served", "rows_run", "rows_served"))


@every_kind
@pytest.mark.parametrize("calls", [(PAIR,), ((COND,), (UNCOND,))], ids=["together", "apart"])
def test_nothing_runs_and_the_same_input_gets_the_same_output(kind, calls):
    unet = models.UNETS[kind]()
    with accelerated(unet, ServeCalls(every=3)) as accelerator:
        ran = res_blocks_run(unet)
        out, blocks = [], []
        for index in range(6):
            out.append(guided.step(unet, accelerator, index, 6, calls, timestep=500))
            blocks.append(len(ran))
            ran.clear()
    assert all(torch.equal(out[0][row.key], other[row.key]) for other in out for row in PAIR)
    assert [bool(count) for count in blocks] == [True, False, False] * 2
    number = len(calls)
    assert counts(accelerator) == (2 * number, 4 * number, 4, 8)
    assert accelerator.report().as_dict()["methods"][0]["cache_bytes"] == 2 * 4 * 16 * 16 * 4


@both
def test_held_is_not_computed(kind):
    """The test above would pass if everything were run."""
    unet = models.UNETS[kind]()
    with accelerated(unet, ServeCalls()) as accelerator:
        out = guided.passes(unet, accelerator, 2)
    assert torch.equal(out[0][COND.key], out[1][COND.key])
    with accelerated(unet) as accelerator:
        plain = guided.passes(unet, accelerator, 2)
    assert torch.equal(out[0][COND.key], plain[0][COND.key]) and not torch.equal(plain[0][COND.key], plain[1][COND.key])


@both
def test_pictures_are_decided_one_by_one(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet) as accelerator:
        plain = guided.passes(unet, accelerator, 2, (TWO,))
    rows = guided.rows_run(unet)
    with accelerated(unet, ServeCalls(images=(1,))) as accelerator:
        out = guided.passes(unet, accelerator, 2, (TWO,))
    assert rows == [4, 2]
    for row in TWO:
        expected = plain[0 if row.image else 1]
        torch.testing.assert_close(out[1][row.key], expected[row.key], atol=1e-4, rtol=1e-4)
    assert counts(accelerator) == (2, 0, 6, 2)


@both
def test_rows_that_are_dropped_are_filled_from_what_was_served(kind):
    unet = models.UNETS[kind]()
    rows = guided.rows_run(unet)
    for order in (1, -1):
        with accelerated(unet, *(ServeCalls(every=3), TGate(gate_step=3))[::order]) as accelerator:
            out = guided.passes(unet, accelerator, 6)
        # 2 is the gate: it is run in full, as nothing else would be kept there; 3 runs the conditional row.
        assert rows == [2, 2, 1]
        assert torch.equal(out[4][UNCOND.key], out[3][COND.key]) and torch.equal(out[5][COND.key], out[3][COND.key])
        rows.clear()
    methods = {method["method"]: method for method in accelerator.report().as_dict()["methods"]}
    assert methods["ServeCalls"]["notes"] and methods["TGate"]["evaluations_saved"] == 3


@both
def test_served_rows_teach_nobody(kind):
    class Learner(Runner):
        window, seen = (0.0, 1.0), []

        def end_call(self, moment, prediction, ran):
            self.seen.append(ran)

    class Settings:
        def runner(self):
            return Learner(ServeCalls())

    unet = models.UNETS[kind]()
    Learner.seen = []
    with accelerated(unet, Settings(), ServeCalls(images=(0,))) as accelerator:
        guided.passes(unet, accelerator, 2, (TWO,))
        guided.passes(unet, accelerator, 2)
    assert Learner.seen == [(0, 1, 2, 3), (1, 3), (0, 1), ()]


@both
def test_a_method_that_needs_the_whole_call_gets_it(kind):
    unet = models.UNETS[kind]()
    rows = guided.rows_run(unet)
    edits = PromptToPrompt(edits=(ImageEdit(1, 0, (None,), self_replace=0.5),))
    with accelerated(unet, ServeCalls(), edits) as accelerator:
        guided.passes(unet, accelerator, 4, (TWO,))
    # An edit takes self-attention from its source in the first half.
    assert rows == [4, 4, 4]
    assert counts(accelerator)[1] == 1


@both
def test_beside_guidance_that_is_skipped_in_a_direction(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, ServeCalls(every=4), GuidanceSkip(when="after", after=0.25, reuse=True, decay=1.0)) as accelerator:
        out = guided.passes(unet, accelerator, 5)
    direction = out[0][COND.key] - out[0][UNCOND.key]
    for index in (2, 3, 4):
        torch.testing.assert_close(out[index][COND.key] - out[index][UNCOND.key], direction, atol=1e-4, rtol=1e-4)
    assert counts(accelerator) == (2, 3, 3, 4)


# -- what is on the U-Net ------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_nothing_is_left(kind, error):
    unet = models.UNETS[kind]()
    before = fingerprint(unet)
    accelerator = accelerated(unet, ServeCalls())
    between = fingerprint(unet)
    assert differences(before, between) == {""} and isinstance(vars(unet)["forward"], InstanceForward)
    guided.step(unet, accelerator, 0, 4)
    guided.step(unet, accelerator, 1, 4)
    if error:
        layer = unet.get_submodule("time_embed" if hasattr(unet, "time_embed") else "time_embedding")
        handle = layer.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(error()))
        with pytest.raises(error):
            guided.step(unet, accelerator, 2, 4)
        handle.remove()
    assert differences(before, fingerprint(unet)) == {""}
    accelerator.remove()
    assert not differences(before, fingerprint(unet))


@every_kind
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_come_out_plain(kind, how):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    with accelerated(unet, ServeCalls()) as accelerator:
        guided.step(unet, accelerator, 0, 4)
        # The host's own classes are imported under names that are given back.
        copied = copy.deepcopy(unet) if how == "deepcopy" or "host" in kind else pickle.loads(pickle.dumps(unet))
        assert "forward" not in vars(copied)
        guided.step(unet, accelerator, 1, 4)
    assert torch.equal(models.call(copied), plain)


def test_copies_of_an_offloaded_model_come_out_plain():
    """accelerate keeps the forward that it found, which was ours."""
    hooks = pytest.importorskip("accelerate.hooks")
    unet = models.diffusers_unet()
    plain = models.call(unet)
    with accelerated(unet, ServeCalls()):
        hooks.add_hook_to_module(unet, hooks.AlignDevicesHook("cpu"))
        copied = copy.deepcopy(unet)
        assert torch.equal(models.call(copied), plain)
        assert hooks.remove_hook_from_module(copied).forward.__self__ is copied
        shared = copy.copy(unet)
        assert torch.equal(models.call(shared), plain)


@both
def test_hooks_of_others_see_a_served_call(kind):
    unet = models.UNETS[kind]()
    seen = []
    unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    unet.register_forward_hook(lambda module, args, out: seen.append(len(out if isinstance(out, torch.Tensor) else out.sample)))
    with accelerated(unet, ServeCalls()) as accelerator:
        guided.passes(unet, accelerator, 2)
    assert seen == [2, 2, 2, 2]


def control(unet, seen):
    """A forward as ControlNet puts it on a U-Net: it runs a network of its own, then what was there."""
    before = unet.forward

    def forward(*args, **kwargs):
        seen.append("control")
        return before(*args, **kwargs)

    unet.forward = forward
    return before


@both
def test_the_network_of_a_control_below_ours_does_not_run(kind):
    unet = models.UNETS[kind]()
    seen = []
    control(unet, seen)
    before = fingerprint(unet)
    with accelerated(unet, ServeCalls()) as accelerator:
        guided.passes(unet, accelerator, 4)
    assert seen == ["control"] * 2 and counts(accelerator)[1] == 2
    assert accelerator.report().as_dict()["stood_down"] == []
    assert not differences(before, fingerprint(unet))


@both
@pytest.mark.parametrize("restored", ["before", "after"])
def test_a_control_over_ours_runs_and_that_is_told(kind, restored):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    before = fingerprint(unet)
    seen = []
    accelerator = accelerated(unet, ServeCalls())
    ours = control(unet, seen)
    guided.passes(unet, accelerator, 4)
    assert seen == ["control"] * 4 and counts(accelerator)[1] == 2
    assert "forward_over_ours" in guided.codes(accelerator.report().as_dict())
    if restored == "before":
        unet.forward = ours
        accelerator.remove()
    else:
        accelerator.remove()
        assert torch.equal(models.call(unet), plain)
        # What is put back when ours is over takes itself out at the next call, or is swept.
        unet.forward = ours
        assert torch.equal(models.call(unet), plain)
    assert not differences(before, fingerprint(unet))


@both
def test_a_forward_that_was_given_back_to_the_class(kind):
    unet = models.UNETS[kind]()
    before = fingerprint(unet)
    with accelerated(unet, ServeCalls()) as accelerator:
        guided.step(unet, accelerator, 0, 4)
        del unet.forward
        # The call under way was looked up before anything of ours ran.
        guided.step(unet, accelerator, 1, 4)
        assert counts(accelerator)[:2] == (2, 0)
        guided.step(unet, accelerator, 3, 4)
    assert counts(accelerator)[:2] == (2, 1)
    assert not differences(before, fingerprint(unet))


@both
def test_another_accelerator_takes_its_place(kind):
    unet = models.UNETS[kind]()
    before = fingerprint(unet)
    accelerated(unet, ServeCalls())
    with accelerated(unet, ServeCalls()) as accelerator:
        guided.passes(unet, accelerator, 2)
    assert counts(accelerator)[1] == 1
    assert not differences(before, fingerprint(unet))


@both
def test_called_without_its_hooks(kind):
    """ControlNet calls the U-Net's forward itself."""
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    given = models.inputs()
    with accelerated(unet, ServeCalls()) as accelerator, torch.no_grad():
        guided.passes(unet, accelerator, 2)
        out = unet.forward(given.latents, given.timestep, given.text)
    assert torch.equal(out if isinstance(out, torch.Tensor) else out.sample, plain)


def test_a_replica_runs_itself():
    unet = models.ldm_unet()
    with accelerated(unet, ServeCalls()) as accelerator:
        guided.step(unet, accelerator, 0, 2)
        replica = unet._replicate_for_data_parallel()
        replica.out = nn.Identity()
        assert models.call(replica).shape[1] == 32


# -- what is returned ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["output", "tuple", "positional"])
def test_diffusers_get_what_they_ask_for(form):
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

    unet = models.diffusers_unet()
    given = guided.given_to(PAIR)
    args = (given.latents, given.timestep, given.text)
    more = {"output": {}, "tuple": {"return_dict": False}, "positional": {}}[form]
    args += (None,) * 9 + (False,) if form == "positional" else ()
    with accelerated(unet, ServeCalls()) as accelerator, torch.no_grad():
        for index in range(2):
            accelerator.step(index, 2, PAIR)
            out = unet(*args, **more)
            assert type(out) is (UNet2DConditionOutput if form == "output" else tuple)
            assert (out.sample if form == "output" else out[0]).shape == (2, 4, 16, 16)
    assert counts(accelerator)[1] == 1


def test_half_precision_stays():
    unet = models.in_dtype(models.diffusers_unet(), torch.bfloat16)
    given = models.inputs(dtype=torch.bfloat16)
    with accelerated(unet, ServeCalls()) as accelerator:
        for index in range(2):
            accelerator.step(index, 2, PAIR)
            assert models.call(unet, given).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["StableDiffusionPipeline", "StableDiffusionXLPipeline"])
def test_pipelines(kind):
    unet = models.diffusers_unet_sdxl() if "XL" in kind else models.diffusers_unet()
    pipe = models.pipeline(unet, kind)
    with accelerated(pipe, ServeCalls()) as accelerator:
        models.picture(pipe, steps=4)
        models.picture(pipe, steps=4)
    assert counts(accelerator) == (4, 4, 8, 8)
    assert accelerator.report().as_dict()["passes"] == 2
