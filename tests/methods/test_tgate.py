"""T-GATE: who is served what after the gate, and whoever cannot be is computed."""

import guided
import models
import pytest
import torch
from guided import COND, PAIR, UNCOND, account
from traces import differences, fingerprint

from lib_accel import AgentAttention, Row, TGate, TokenDownsampling, TokenMerging, accelerated

both = pytest.mark.parametrize("kind", models.BOTH)
CLOSE = {"atol": 2e-4, "rtol": 1e-3}
TWO = (Row("cond", 0), Row("cond", 1), Row("uncond", 0), Row("uncond", 1))


@pytest.mark.parametrize("kind", models.UNETS)
@pytest.mark.parametrize("branch", ["cond", "uncond"])
def test_after_the_gate_one_branch_runs_and_stands_for_both(kind, branch):
    unet = models.UNETS[kind]()
    ran = guided.rows_run(unet)
    plain = guided.passes(unet, guided.Silent())
    ran.clear()
    with accelerated(unet, TGate(gate=0.4, after_gate=branch)) as accelerator:
        steps = guided.passes(unet, accelerator)
        report = accelerator.report()
    assert ran == [2, 2, 1, 1, 1]
    assert all(torch.equal(steps[i][key], plain[i][key]) for i in (0, 1) for key in plain[0])
    assert all(torch.equal(steps[i][UNCOND.key], steps[i][COND.key]) for i in (2, 3, 4))
    assert not torch.allclose(steps[4][COND.key], plain[4][COND.key], atol=1e-4)
    data = report.as_dict()
    method = data["methods"][0]
    assert (data["rows"], data["rows_run"]) == (10, 7)
    assert (method["steps"], method["unguided_steps"], method["evaluations_saved"]) == (3, 3, 3)
    assert method["layers"] == data["sites"] == method["layers_by_effect"]["cross-attention served"]
    assert method["cache_bytes"] > 0 and method["notes"] == []
    assert method["layers_by_effect"] == {"cross-attention served": data["sites"]}
    assert data["steps"] == 5 and method["kept_direction_steps"] == 0


@both
def test_each_row_is_served_what_it_returned_itself(kind):
    """At the gate's own timestep and latents, serving what was computed there changes nothing."""
    unet = models.UNETS[kind]()
    with accelerated(unet, TGate(gate_step=1, drop_guidance=False)) as accelerator:
        first = guided.step(unet, accelerator, 0, 5, timestep=500)
        again = guided.step(unet, accelerator, 1, 5, timestep=500)
        assert account(accelerator)["layers_by_effect"] == {"cross-attention served": 7}
    for key in first:
        assert torch.equal(first[key], again[key])


@both
def test_the_half_sum_is_another_cache(kind):
    unet = models.UNETS[kind]()
    outs = {}
    for cache in ("cond", "mean"):
        with accelerated(unet, TGate(gate_step=2, cache=cache)) as accelerator:
            outs[cache] = guided.passes(unet, accelerator)[4][COND.key]
    assert not torch.allclose(outs["cond"], outs["mean"], atol=1e-3)


@both
def test_a_bare_unet_goes_by_the_timestep(kind):
    """Which step is the last before the gate is not known: the first one after it keeps, the next are served."""
    unet = models.UNETS[kind]()
    plain = [models.call(unet, models.inputs(timestep=t)) for t in (999, 700, 500, 300, 100)]
    with accelerated(unet, TGate(gate=0.4)) as accelerator:
        gated = [models.call(unet, models.inputs(timestep=t)) for t in (999, 700, 500, 300, 100)]
        assert [torch.equal(one, other) for one, other in zip(gated, plain)] == [True] * 3 + [False] * 2
        assert account(accelerator)["steps"] == 2
        assert torch.equal(models.call(unet, models.inputs(timestep=999)), plain[0])


@both
def test_evaluations_of_the_same_step(kind):
    """Two evaluations in a step, the gate's own among them: the later is kept; nobody is gated by the number of calls."""
    unet = models.UNETS[kind]()
    ran = guided.rows_run(unet)
    with accelerated(unet, TGate(gate_step=2)) as accelerator:
        for index in (0, 0, 1, 1, 2, 2, 3):
            guided.step(unet, accelerator, index, 4)
    assert ran == [2, 2, 2, 2, 1, 1, 1]


@both
def test_a_block_that_did_not_run_at_the_gate(kind):
    """It is computed where it runs again, and served from then on."""
    unet = models.UNETS[kind]()
    middle = unet.middle_block if kind == "ldm" else unet.mid_block
    ran = []
    attn2 = next(m for n, m in middle.named_modules() if n.endswith("attn2.to_q"))
    attn2.register_forward_hook(lambda module, args, out: ran.append(len(out)))
    with accelerated(unet, TGate(gate_step=2)) as accelerator:
        for index in range(5):
            if index == 1:
                middle.forward = lambda x, *args, **kwargs: x
            guided.step(unet, accelerator, index, 5)
            middle.__dict__.pop("forward", None)
    assert ran == [2, 1]
    assert account(accelerator)["layers_by_effect"] == {"cross-attention served": 7}


@both
def test_a_step_that_was_never_seen(kind):
    """Beginning behind the gate (another model took over): the first step keeps, guided; the next are gated."""
    unet = models.UNETS[kind]()
    ran = guided.rows_run(unet)
    with accelerated(unet, TGate(gate=0.4)) as accelerator:
        for index in (7, 8, 9):
            guided.step(unet, accelerator, index, 10)
    assert ran == [2, 1, 1]


@both
@pytest.mark.parametrize("end", ["last step", "new pass", "next pass", "remove"])
def test_caches_are_freed(kind, end):
    unet = models.UNETS[kind]()
    with accelerated(unet, TGate(gate_step=2)) as accelerator:
        caches = accelerator._runners[0]._caches
        for index in range(4):
            guided.step(unet, accelerator, index, 5)
        assert caches.nbytes > 0
        if end == "last step":
            guided.step(unet, accelerator, 4, 5)
        elif end == "new pass":
            accelerator.new_pass()
        elif end == "next pass":
            guided.step(unet, accelerator, 0, 5)
        else:
            accelerator.remove()
        assert caches.nbytes == 0
        assert account(accelerator)["cache_bytes"] > 0


@both
def test_the_last_step_may_take_several_calls(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, TGate(gate_step=2)) as accelerator:
        caches = accelerator._runners[0]._caches
        accelerator.step(1, 3, PAIR)
        models.call(unet, guided.given_to(PAIR))
        accelerator.step(2, 3, PAIR)
        models.call(unet, guided.given_to([UNCOND]))
        assert caches.nbytes > 0
        models.call(unet, guided.given_to([COND]))
        assert caches.nbytes == 0
        ran = guided.rows_run(unet)
        guided.step(unet, accelerator, 3, 3)
    assert ran == [1]


@both
def test_gates_that_are_never_reached(kind):
    unet = models.UNETS[kind]()
    plain = guided.passes(unet, guided.Silent(), 2)
    for method in (TGate(gate=1), TGate(gate_step=2), TGate(gate_step=50), TGate(gate=0.6)):
        with accelerated(unet, method) as accelerator:
            for one, other in zip(guided.passes(unet, accelerator, 2), plain):
                assert all(torch.equal(one[key], other[key]) for key in other)


@both
def test_self_attention_intervals(kind):
    unet = models.UNETS[kind]()
    ran = []
    attn1 = next(m for n, m in unet.named_modules() if n.endswith("attn1.to_q"))
    attn1.register_forward_hook(lambda module, args, out: ran.append(len(out)))
    with accelerated(unet, TGate(gate_step=5, sp_interval=3, fi_interval=2, warm_up=1)) as accelerator:
        guided.passes(unet, accelerator, 8)
        # warm-up, cached, reused, cached, at the gate cached; reused, cached, reused
        assert ran == [2, 2, 2, 2, 1]
        assert account(accelerator)["layers_by_effect"] == {"cross-attention served": 7, "self-attention served": 7}


@both
def test_caches_in_main_memory_and_edits_in_place(kind):
    """What hosts do to outputs in place does not reach what is kept."""
    unet = models.UNETS[kind]()
    layer = next(m for n, m in unet.named_modules() if n.endswith("attn2"))
    layer.register_forward_hook(lambda module, args, out: out.mul_(0.5))
    outs = []
    for method in (TGate(gate_step=1, drop_guidance=False), TGate(gate_step=1, drop_guidance=False, offload=True)):
        with accelerated(unet, method) as accelerator:
            outs.append([guided.step(unet, accelerator, index, 9, timestep=500)[COND.key] for index in range(3)])
    for out in outs:
        assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])
    assert torch.equal(outs[0][0], outs[1][0])


@both
@pytest.mark.parametrize(
    "other",
    [
        (TokenMerging(ratio=0.5, merge_crossattn=True, merge_mlp=True),),
        (TokenMerging(ratio=0.5, merge_crossattn=True, window=(0, 0.4)), TokenMerging(ratio=0.2, merge_crossattn=True, window=(0.4, 1))),
        (AgentAttention(window=(0, 1)),),
        (TokenDownsampling(factor=2),),
    ],
    ids=["merging", "changing", "agents", "downsampling"],
)
def test_what_is_kept_is_not_merged(kind, other):
    unet = models.UNETS[kind]()
    for methods in ((TGate(gate_step=2), *other), (*other, TGate(gate_step=2))):
        with accelerated(unet, *methods) as accelerator:
            guided.passes(unet, accelerator)
            for index in range(4):
                guided.step(unet, accelerator, index, 5)
            position = methods.index(TGate(gate_step=2))
            caches = accelerator._runners[position]._caches
            tokens = {kept.tensor.shape[0] for kept in caches._store._all()}
            assert tokens == {256, 64, 16}
            assert account(accelerator, position)["layers_by_effect"] == {"cross-attention served": 7}
            assert account(accelerator, 0 if position else 1)["layers"] > 0


@both
def test_nothing_is_left(kind):
    unet = models.UNETS[kind]()
    plain = guided.passes(unet, guided.Silent(), 3)
    before = fingerprint(unet)
    with accelerated(unet, TGate(gate_step=1, fi_interval=2)) as accelerator:
        between = fingerprint(unet)
        guided.passes(unet, accelerator, 3)
        assert not differences(between, fingerprint(unet))
    assert not differences(before, fingerprint(unet))
    for one, other in zip(guided.passes(unet, guided.Silent(), 3), plain):
        assert all(torch.equal(one[key], other[key]) for key in other)


@pytest.mark.parametrize("kind", models.UNETS)
def test_half_precision(kind, monkeypatch):
    dtype = torch.bfloat16
    # LDM's own attention mixes float32 and half precision, which CPUs refuse.
    monkeypatch.setattr("ldm.modules.attention.CrossAttention.forward", models.host_forward([]))
    unet = models.in_dtype(models.UNETS[kind](), dtype)
    with accelerated(unet, TGate(gate_step=2, cache="mean")) as accelerator:
        for index, timestep in enumerate((999, 600, 300)):
            accelerator.step(index, 3, PAIR)
            out = models.call(unet, models.inputs(2, 8, 8, dtype=dtype, timestep=timestep))
    assert out.dtype == dtype and torch.isfinite(out).all()
    assert torch.equal(out[0], out[1])
    assert account(accelerator)["failed"] is None and account(accelerator)["steps"] == 1


@both
def test_autocast(kind):
    unet = models.UNETS[kind]()
    with torch.autocast("cpu", dtype=torch.bfloat16), accelerated(unet, TGate(gate_step=1, drop_guidance=False)) as accelerator:
        first = guided.step(unet, accelerator, 0, 5, timestep=500)
        again = guided.step(unet, accelerator, 1, 5, timestep=500)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert account(accelerator)["layers_by_effect"] == {"cross-attention served": 7}


@pytest.mark.parametrize("gate", [{"gate_step": 4}, {"gate": 1.0}])
def test_the_last_step_before_a_gate_at_the_end_computes_self_attention(gate):
    unet = models.diffusers_unet()
    ran = []
    layer = next(module for name, module in unet.named_modules() if name.endswith("attn1.to_q"))
    layer.register_forward_hook(lambda *_: ran.append(True))
    counts = []
    with accelerated(unet, TGate(**gate, sp_interval=2)) as accelerator:
        for index in range(4):
            ran.clear()
            guided.step(unet, accelerator, index, 4)
            counts.append(len(ran))
    assert [bool(count) for count in counts] == [True, False, True, True]
    with accelerated(unet, TGate(gate_step=5, sp_interval=2)) as accelerator:
        for index in range(4):
            ran.clear()
            guided.step(unet, accelerator, index, 4)
            counts[index] = len(ran)
    assert [bool(count) for count in counts] == [True, False, True, False]
