"""T-GATE and rows: what each is served, alone or combined; hosts that split, tell or drop them."""

import guided
import models
import pytest
import torch
from guided import COND, PAIR, UNCOND, account

from lib_accel import Row, TGate, accelerated
from lib_accel.core.rows import Layout
from lib_accel.methods.layer_cache import LayerCache

both = pytest.mark.parametrize("kind", models.BOTH)
CLOSE = {"atol": 2e-4, "rtol": 1e-3}
TWO = (Row("cond", 0), Row("cond", 1), Row("uncond", 0), Row("uncond", 1))


@both
@pytest.mark.parametrize("cache", ["cond", "mean"])
@pytest.mark.parametrize("calls", [((COND,), (UNCOND,)), ((UNCOND,), (COND,))])
def test_separate_calls_are_served_as_one_call_is(kind, cache, calls):
    """No call can do without all of its rows: guidance stays, and the report says why."""
    unet = models.UNETS[kind]()
    ran = guided.rows_run(unet)
    with accelerated(unet, TGate(gate_step=2, cache=cache, drop_guidance=False)) as accelerator:
        together = guided.passes(unet, accelerator)
    with accelerated(unet, TGate(gate_step=2, cache=cache)) as accelerator:
        apart = guided.passes(unet, accelerator, calls=calls)
    assert ran == [2] * 5 + [1] * 10
    for one, other in zip(together, apart):
        torch.testing.assert_close(one[COND.key], other[COND.key], **CLOSE)
    assert guided.codes(account(accelerator)) == ["guidance_kept: separate_calls"]
    assert account(accelerator)["evaluations_saved"] == 0


def test_what_rows_get():
    """The published half-sum; with AND each part its own, the unconditional row their mean by weight; others their own.

    A part with a negative weight counts nothing in the mean."""
    rows = [Row("cond", 0, 0, 3.0), Row("cond", 0, 1, 1.0), Row("uncond", 0), Row("cond", 1), Row("image", 0), Row("unknown", 7)]
    out = torch.tensor([1.0, 5.0, 10.0, 20.0, 30.0, 40.0])[:, None, None].expand(-1, 2, 3)

    def served(**settings):
        cache = LayerCache(**settings)
        cache.keep("site", Layout(rows), out, rows, combine=True)
        return [None if (one := cache.serve("site", Layout([row]), out)) is None else float(one.mean()) for row in rows]

    assert served() == [1, 5, 10, 20, 30, 40]
    assert served(mean=True) == [5.5, 7.5, 10, 20, 30, 40]
    assert served(mean=True, uncond_goes=True) == [5.5, 7.5, None, 20, 30, 40]
    assert served(for_uncond=True) == [1, 5, 2, 20, 30, 40]
    assert served(mean=True, for_uncond=True, offload=True) == [5.5, 7.5, 6, 20, 30, 40]
    rows[1] = Row("cond", 0, 1, -3.0)
    assert served(for_uncond=True)[2] == 1


def test_a_kept_row_holds_its_own_memory_alone():
    cache = LayerCache()
    out = torch.zeros(4, 10, 8)
    cache.keep("site", Layout(TWO), out, TWO[:1])
    assert cache.nbytes == 10 * 8 * 4
    (kept,) = cache._store._all()
    assert kept.tensor.untyped_storage().nbytes() == cache.nbytes


@both
def test_rows_nobody_described(kind):
    """Caches keep their shape, guidance stays, the report says so."""
    unet = models.UNETS[kind]()
    ran = guided.rows_run(unet)
    with accelerated(unet, TGate(gate=0.4)) as accelerator:
        for index in range(5):
            accelerator.step(index, 5)
            models.call(unet, models.inputs(rows=3))
    assert ran == [3] * 5
    assert guided.codes(account(accelerator)) == ["guidance_kept: rows_unknown"]
    assert (account(accelerator)["steps"], account(accelerator)["layers"]) == (3, 7)


@both
def test_rows_in_another_order_new_rows_and_other_sizes(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, TGate(gate_step=1, drop_guidance=False)) as accelerator:
        first = guided.step(unet, accelerator, 0, 9, [TWO], timestep=500)
        turned = guided.step(unet, accelerator, 1, 9, [TWO[::-1]], timestep=500)
        for key in first:
            torch.testing.assert_close(first[key], turned[key], **CLOSE)
        for change in ({"calls": [(*TWO, Row("cond", 2))]}, {"h": 8, "w": 32}, {"h": 32, "w": 8}, {"h": 24, "w": 24}):
            served = account(accelerator)["layer_calls"]
            guided.step(unet, accelerator, 2, 9, **({"calls": [TWO]} | change))
            assert account(accelerator)["layer_calls"] == served
            guided.step(unet, accelerator, 3, 9, **({"calls": [TWO]} | change))
            assert account(accelerator)["layer_calls"] == served + 7


@both
def test_and_prompts(kind):
    """Our hooks cannot combine what is left of several parts; hosts can, and are told that they must."""
    unet = models.UNETS[kind]()
    rows = (Row("cond", 0, 0), Row("cond", 0, 1, 0.5), Row("cond", 1), Row("uncond", 0), Row("uncond", 1))
    ran = guided.rows_run(unet)
    with accelerated(unet, TGate(gate_step=1)) as accelerator:
        for index in (0, 1):
            guided.step(unet, accelerator, index, 3, [rows])
        accelerator.step(2, 3, rows)
        plan = accelerator.row_plan()
        assert (plan.keep, plan.fill, plan.exact) == ((0, 1, 2), (0, 1, 2, 0, 2), False)
    assert ran == [5, 5]
    assert guided.codes(account(accelerator)) == ["guidance_kept: and_prompts"]
    with accelerated(unet, TGate(gate_step=1, after_gate="uncond")) as accelerator:
        ran.clear()
        for index in (0, 1):
            guided.step(unet, accelerator, index, 3, [rows])
    assert ran == [5, 2]


@both
def test_a_host_that_drops_rows_itself(kind):
    unet = models.UNETS[kind]()
    ran = guided.rows_run(unet)
    with accelerated(unet, TGate(gate_step=2)) as accelerator:
        hooks = guided.passes(unet, accelerator)
        ran.clear()
        accelerator.new_pass()
        assert accelerator.row_plan() is None
        own = []
        for index in range(5):
            accelerator.step(index, 5, PAIR)
            plan = accelerator.row_plan()
            rows = PAIR if plan is None else tuple(PAIR[i] for i in plan.keep)
            own.append(guided.step(unet, accelerator, index, 5, [rows]))
        report = accelerator.report().as_dict()
    assert ran == [2, 2, 1, 1, 1]
    assert all(torch.equal(one[COND.key], other[COND.key]) for one, other in zip(hooks, own))
    assert (report["passes"], report["methods"][0]["evaluations_saved"]) == (2, 6)


def test_a_model_that_guides_by_an_image_too():
    unet = models.ldm_unet()
    ran = guided.rows_run(unet)
    with accelerated(unet, TGate(gate_step=1)) as accelerator:
        guided.passes(unet, accelerator, 3, [(COND, Row("image"), UNCOND)])
    assert ran == [3, 3, 3]
    assert guided.codes(account(accelerator)) == ["guidance_kept: image_guidance"]
