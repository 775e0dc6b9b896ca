"""Running a U-Net on some of its rows: what is cut, what is filled, which rows may go; and calls that go wrong meanwhile."""

import copy
from collections import namedtuple

import guided
import models
import pytest
import torch
from guided import COND, PAIR, UNCOND
from traces import differences, fingerprint

from lib_accel import Row, RowPlan, TGate, accelerated, remove_patch
from lib_accel.core.row_slicing import cut_rows, fill_rows, prediction_of
from lib_accel.core.rows import Layout, without_guidance
from lib_accel.methods.tgate_runner import TGateRunner

both = pytest.mark.parametrize("kind", models.BOTH)
ROWS = torch.arange(4.0)[:, None].expand(-1, 3)
Pair = namedtuple("Pair", "first second")


def test_every_tensor_of_the_batch_is_cut_however_deep():
    other, scalar = torch.zeros(3, 4), torch.tensor(5)
    given = (ROWS, {"a": [ROWS, None, "x"], "b": (other, scalar, {"c": ROWS}), "pair": Pair(ROWS, 3)}, 2.5)
    cut = cut_rows(given, 4, [1, 3])
    assert cut[0][:, 0].tolist() == [1, 3]
    assert cut[1]["a"][0][:, 0].tolist() == [1, 3] and cut[1]["a"][1:] == [None, "x"]
    assert cut[1]["b"][0] is other and cut[1]["b"][1] is scalar
    assert cut[1]["b"][2]["c"].shape == (2, 3)
    assert cut[1]["pair"].first.shape == (2, 3) and cut[1]["pair"].second == 3
    assert given[1]["a"][0] is ROWS and given[1]["b"][2]["c"] is ROWS
    assert cut[2] == 2.5


def test_rows_side_by_side_are_not_copied():
    assert cut_rows(ROWS, 4, [2, 3]).data_ptr() == ROWS[2:].data_ptr()


@pytest.mark.parametrize("form", ["tensor", "tuple", "output"])
def test_outputs_are_filled(form):
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

    kept = ROWS[:2].clone()
    given = {"tensor": kept, "tuple": (kept,), "output": UNet2DConditionOutput(sample=kept)}[form]
    filled = fill_rows(given, (0, 2), (0, 1, 1, 0))
    assert type(filled) is type(given)
    assert prediction_of(filled)[:, 0].tolist() == [0, 1, 1, 0]
    assert form != "output" or torch.equal(filled["sample"], filled.sample)
    prediction_of(filled)[0] = 9
    assert kept.max() == 1


def test_outputs_that_nobody_knows():
    assert prediction_of({"noise": ROWS}) is None and prediction_of([]) is None and prediction_of(None) is None


@pytest.mark.parametrize("plan", [((), ()), ((0,), (0, 1)), ((1, 0), (0, 1)), ((0, 2), (0, 0)), ((0, 1), (1, 0)), ((0,), (0, -1))])
def test_plans_that_cannot_be(plan):
    with pytest.raises(ValueError, match="kept rows get their own output"):
        RowPlan(*plan)


def test_which_rows_may_go():
    rows = Layout.guided(4)
    assert without_guidance(rows) == (RowPlan((2, 3), (0, 1, 0, 1)), None)
    assert without_guidance(rows, "uncond") == (RowPlan((0, 1), (0, 1, 0, 1)), None)
    assert without_guidance(Layout([COND])) == (None, None)
    turned = Layout([Row("uncond", 1), Row("cond", 1), Row("cond", 0), Row("uncond", 0)])
    assert without_guidance(turned) == (RowPlan((1, 2), (0, 0, 1, 1)), None)
    for branch in ("cond", "uncond"):
        for some in ([UNCOND], [COND, UNCOND, Row("uncond", 1)]):
            plan, reason = without_guidance(Layout(some), branch)
            assert plan is None or branch == "uncond"
            assert plan is not None or "in a call of their own" in reason
    assert without_guidance(Layout.unknown(2))[0] is None
    assert without_guidance(Layout([COND, Row("image"), UNCOND]))[0] is None


# -- calls that go wrong -------------------------------------------------------------------------------------------------------


def gated(unet, accelerator):
    """A pass up to the first step after the gate."""
    guided.step(unet, accelerator, 0, 4)
    accelerator.step(1, 4, PAIR)


@both
def test_an_error_and_an_interrupt_while_rows_are_dropped(kind):
    unet = models.UNETS[kind]()
    before = fingerprint(unet)
    place = "middle_block.1.proj_out" if kind == "ldm" else "mid_block.attentions.0.proj_out"
    with accelerated(unet, TGate(gate_step=1)) as accelerator:
        good = guided.passes(unet, accelerator, 4)
        for error in (ValueError, KeyboardInterrupt):
            gated(unet, accelerator)

            def fail(*_, error=error):
                raise error

            handle = unet.get_submodule(place).register_forward_hook(fail)
            with pytest.raises(error):
                models.call(unet, guided.given_to(PAIR))
            handle.remove()
            again = guided.passes(unet, accelerator, 4)
            assert all(torch.equal(one[COND.key], other[COND.key]) for one, other in zip(good, again))
    assert not differences(before, fingerprint(unet))


@both
@pytest.mark.parametrize("spot", ["begin_step", "serve", "observe", "end_call"])
def test_errors_of_our_own(kind, spot, monkeypatch):
    monkeypatch.delenv("ACCEL_STRICT")
    unet = models.UNETS[kind]()
    ran = guided.rows_run(unet)

    def fail(*_args, **_kwargs):
        raise RuntimeError("on purpose")

    with accelerated(unet, TGate(gate_step=2)) as accelerator:
        guided.step(unet, accelerator, 0, 5)
        monkeypatch.setattr(TGateRunner, spot, fail)
        out = guided.step(unet, accelerator, 1, 5)
        monkeypatch.undo()
        guided.step(unet, accelerator, 2, 5)
    assert ran == [2, 2, 2]
    assert len(out) == 2
    assert "RuntimeError: on purpose" in guided.account(accelerator)["failed"]


@both
def test_a_call_inside_a_call_on_fewer_rows(kind):
    """A tiling wrapper calls the U-Net again from inside: it has the rows that are left, and nothing more is dropped."""
    unet = models.UNETS[kind]()
    with accelerated(unet, TGate(gate_step=1)) as accelerator:
        guided.step(unet, accelerator, 0, 4)
        inner, plain = [], type(unet).forward

        def forward(*args, **kwargs):
            if not inner:
                inner.append(None)
                inner[0] = unet(*args, **kwargs)
            return plain(unet, *args, **kwargs)

        unet.forward = forward
        out = guided.step(unet, accelerator, 1, 4)
        del unet.forward
        assert len(prediction_of(inner[0])) == 1
        assert torch.equal(out[COND.key], out[UNCOND.key])
        assert torch.equal(prediction_of(inner[0])[0], out[COND.key])


@both
def test_a_copy_made_while_rows_are_dropped(kind):
    unet = models.UNETS[kind]()
    copies = []
    with accelerated(unet, TGate(gate_step=1)) as accelerator:
        gated(unet, accelerator)
        handle = unet.register_forward_pre_hook(lambda *_: copies.append(copy.deepcopy(unet)))
        out = models.call(unet, guided.given_to(PAIR))
        handle.remove()
    assert len(out) == 2 and torch.equal(out[0], out[1])
    del copies[0]._forward_pre_hooks[handle.id]
    assert len(models.call(copies[0], guided.given_to(PAIR))) == 2


@both
@pytest.mark.parametrize("by", ["remove", "another"])
def test_taken_back_while_rows_are_dropped(kind, by):
    unet = models.UNETS[kind]()
    before = fingerprint(unet)
    accelerator = accelerated(unet, TGate(gate_step=1))
    gated(unet, accelerator)
    layer = unet.get_submodule("middle_block.0" if kind == "ldm" else "mid_block.resnets.0")

    def take_back(*_):
        accelerator.remove() if by == "remove" else accelerated(unet, TGate())

    handle = layer.register_forward_pre_hook(take_back)
    out = models.call(unet, guided.given_to(PAIR))
    handle.remove()
    assert len(out) == 2 and torch.equal(out[0], out[1])
    remove_patch(unet)
    assert not differences(before, fingerprint(unet))


@both
def test_more_rows_than_were_told(kind):
    """Tiles: of a picture made of several calls some would be guided and others not."""
    unet = models.UNETS[kind]()
    ran = guided.rows_run(unet)
    with accelerated(unet, TGate(gate_step=2)) as accelerator:
        for index in range(4):
            accelerator.step(index, 4, PAIR)
            for _ in range(3):
                models.call(unet, guided.given_to(PAIR))
        assert ran == [2] * 12
        assert "guidance_kept: too_many_calls" in guided.codes(guided.account(accelerator))
        ran.clear()
        guided.passes(unet, accelerator, 4)
    assert ran == [2, 2, 1, 1]


@both
def test_gradients_and_rows(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, TGate(gate_step=1)) as accelerator:
        gated(unet, accelerator)
        given = guided.given_to(PAIR)
        with torch.enable_grad():
            out = prediction_of(
                unet(given.latents, given.timestep, context=given.text)
                if kind == "ldm"
                else unet(given.latents, given.timestep, given.text)
            )
    assert not torch.equal(out[0], out[1])
