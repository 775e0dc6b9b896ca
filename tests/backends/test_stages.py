"""Stages of a U-Net: found in order, served one by one, or left out below a cut; and nothing of it is left behind."""

import copy
import pickle

import guided
import models
import pytest
import torch
from guided import COND, PAIR, UNCOND
from serving import ServeCalls, ServeStage, Shallow, res_blocks_run
from traces import differences, fingerprint

from lib_accel import AgentAttention, PromptToPrompt, Row, TGate, TokenMerging, accelerated
from lib_accel.backends import backend_for
from lib_accel.core.placeholder import Placeholder
from lib_accel.core.stages import deep_stages, partner

KINDS = [kind for kind in models.UNETS if "sd2" not in kind]
every_kind = pytest.mark.parametrize("kind", KINDS)
both = pytest.mark.parametrize("kind", models.BOTH)
TWO = (Row("uncond", 0), Row("uncond", 1), Row("cond", 0), Row("cond", 1))


def stages_of(unet):
    return backend_for(unet).find_stages(unet)


def served(accelerator):
    return accelerator.report().as_dict()["stages_served"]


# -- which there are -----------------------------------------------------------------------------------------------------------


@every_kind
def test_stages_are_found_in_order_of_execution(kind):
    unet = models.UNETS[kind]()
    stages = stages_of(unet)
    assert [stage.index for stage in stages] == list(range(13))
    assert [stage.place for stage in stages] == ["down"] * 6 + ["mid"] + ["up"] * 6
    assert [stage.level for stage in stages] == [0, 0, 0, 1, 1, 2, 2, 2, 2, 1, 1, 0, 0]
    assert [stage.holds for stage in stages] == [
        *("input", "block", "downsampler", "block", "downsampler", "block", "middle"),
        *["block"] * 6,
    ]
    order = []
    for stage in stages:
        stage.modules[-1].register_forward_hook(lambda *_, index=stage.index: order.append(index))
    models.call(unet)
    assert order == list(range(13))


@every_kind
def test_partners_share_a_skip_connection(kind):
    unet = models.UNETS[kind]()
    stages = stages_of(unet)
    returned, given = {}, {}
    for stage in stages:
        stage.modules[-1].register_forward_hook(
            lambda _, args, out, index=stage.index: returned.update({index: out[0] if isinstance(out, tuple) else out})
        )
        stage.modules[0].register_forward_pre_hook(lambda _, args, index=stage.index: given.update({index: args[0]}))
    models.call(unet)
    for up in stages[7:]:
        skip, before = returned[partner(stages, up).index], returned[up.index - 1]
        assert torch.equal(given[up.index], torch.cat([before, skip], 1))
    assert [stage.index for stage in deep_stages(stages, stages[-1])] == list(range(1, 12))
    assert [stage.index for stage in deep_stages(stages, stages[7])] == [6]


def test_unets_whose_blocks_are_not_known_have_none():
    unet = models.diffusers_unet()
    unet.up_blocks[0].__class__ = type("OwnBlock", (type(unet.up_blocks[0]),), {})
    assert stages_of(unet) == ()
    with accelerated(unet, Shallow()) as accelerator:
        guided.passes(unet, accelerator, 2)
    assert served(accelerator) == 0


# -- one stage ----------------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("stage", [1, 2, 5, 6, 8, 12])
def test_a_stage_that_is_served_does_not_run(kind, stage):
    unet = models.UNETS[kind]()
    blocks_of_it = sum(type(m).__name__ in ("ResBlock", "ResnetBlock2D") for part in stages_of(unet)[stage].modules for m in part.modules())
    with accelerated(unet, ServeStage(stage)) as accelerator:
        ran = res_blocks_run(unet)
        out, blocks = [], []
        for index in range(4):
            out.append(guided.step(unet, accelerator, index, 4, timestep=500))
            blocks.append(len(ran))
            ran.clear()
        learnt = accelerator._runners[0].learnt
    assert all(torch.equal(out[0][row.key], other[row.key]) for other in out for row in PAIR)
    assert blocks == [blocks[0], blocks[0] - blocks_of_it] * 2
    assert learnt == [(0, 1), ()] * 2
    report = accelerator.report().as_dict()
    assert (report["stages_run"], report["stages_served"]) == (50, 2)


# -- shallow calls -------------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("before", [1, 2, 3, 6])
@pytest.mark.parametrize("calls", [(PAIR,), ((COND,), (UNCOND,))], ids=["together", "apart"])
def test_only_shallow_stages_run(kind, before, calls):
    unet = models.UNETS[kind]()
    with accelerated(unet, Shallow(before)) as accelerator:
        ran = res_blocks_run(unet)
        out, blocks = [], []
        for index in range(4):
            out.append(guided.step(unet, accelerator, index, 4, calls, timestep=500))
            blocks.append(len(ran) // len(calls))
            ran.clear()
    assert all(torch.equal(out[0][row.key], other[row.key]) for other in out for row in PAIR)
    # ResBlocks: 3 down, 2 in the middle, 6 up; shallow stages are the last ones up and their partners.
    shallow = before + {1: 0, 2: 1, 3: 1, 6: 3}[before]
    assert blocks == [11, shallow] * 2
    assert served(accelerator) == 2 * len(calls) * (13 - 2 * before)
    assert accelerator._runners[0].learnt == ([tuple(range(len(calls[0])))] * len(calls) + [()] * len(calls)) * 2


@both
@pytest.mark.parametrize("method", [ServeStage(6), Shallow(2)], ids=["stage", "shallow"])
def test_a_model_in_channels_last_gets_what_it_kept_as_it_was(kind, method):
    """Laid out in memory otherwise, its next convolution would be another kernel's."""
    unet = models.UNETS[kind]().to(memory_format=torch.channels_last)
    given = []
    stages_of(unet)[11].modules[0].register_forward_pre_hook(lambda _, args: given.append(args[0]))
    with accelerated(unet, method) as accelerator:
        out = [guided.step(unet, accelerator, index, 4, timestep=500) for index in range(4)]
    assert served(accelerator)
    assert all(torch.equal(out[0][row.key], other[row.key]) for other in out for row in PAIR)
    assert {tensor.is_contiguous(memory_format=torch.channels_last) for tensor in given} == {True}


@every_kind
def test_what_is_served_is_what_was_kept(kind):
    """Other inputs: shallow stages see them, what is below the cut does not."""
    unet = models.UNETS[kind]()
    with accelerated(unet, Shallow(3)) as accelerator:
        out = guided.passes(unet, accelerator, 2)
    kept, module = [], stages_of(unet)[9].modules[-1]
    handle = module.register_forward_hook(lambda _, args, out: kept.append(out))
    with accelerated(unet) as accelerator:
        guided.step(unet, accelerator, 0, 2)
        handle.remove()

        def give(_, args, out):
            value = kept[0]
            return value

        handle = module.register_forward_hook(give)
        expected = guided.step(unet, accelerator, 1, 2)
        handle.remove()
    for row in PAIR:
        assert torch.equal(out[1][row.key], expected[row.key])
    assert not torch.equal(out[0][COND.key], out[1][COND.key])


@every_kind
@pytest.mark.parametrize("before", [1, 3, 5])
def test_pictures_are_decided_one_by_one(kind, before):
    """The deep stages run on the rows of the other picture alone."""
    unet = models.UNETS[kind]()
    plain, all_served, rows = [], [], []
    with accelerated(unet) as accelerator:
        plain = guided.passes(unet, accelerator, 2, (TWO,))
    with accelerated(unet, Shallow(before)) as accelerator:
        all_served = guided.passes(unet, accelerator, 2, (TWO,))
    inside = stages_of(unet)[6].modules[0]
    (inside.resnets if "diffusers" in kind else inside)[0].register_forward_hook(lambda _, args, out: rows.append(len(out)))
    with accelerated(unet, Shallow(before, images=(1,))) as accelerator:
        out = guided.passes(unet, accelerator, 2, (TWO,))
    assert rows == [4, 2]
    for row in TWO:
        expected = (all_served if row.image else plain)[1][row.key]
        torch.testing.assert_close(out[1][row.key], expected, atol=1e-4, rtol=1e-4)
    assert accelerator._runners[0].learnt == [(0, 1, 2, 3), (0, 2)]


@both
def test_layers_of_the_deep_stages_know_their_rows(kind):
    unet = models.UNETS[kind]()
    methods = (TokenMerging(ratio=0.4, max_downsample=4, plan_every=3), AgentAttention(merge_attn=False, merge_mlp=True, window=(0, 1)))
    for method in methods:
        with accelerated(unet, method, Shallow(images=(1,)), TGate(gate=1.0, sp_interval=2)) as accelerator:
            guided.passes(unet, accelerator, 4, (TWO,))
            guided.passes(unet, accelerator, 4, (TWO[1:2], TWO[3:]))
        report = accelerator.report().as_dict()
        assert report["methods"][0]["stood_down"] == {} and report["methods"][0]["layers"] > 0


@both
def test_beside_rows_that_are_dropped_and_calls_that_are_served(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, Shallow(2, every=3), TGate(gate_step=2), ServeCalls(every=2, images=(0,))) as accelerator:
        out = guided.passes(unet, accelerator, 6, (TWO,))
    assert len(out) == 6
    report = accelerator.report().as_dict()
    # Step 1 is the gate: in full. 2: shallow, 3: picture 0 served, 4: shallow, 5: picture 0 served and the rest shallow.
    assert (report["calls_run"], report["rows_run"], report["rows_served"]) == (6, 4 + 4 + 2 + 1 + 2 + 1, 2)
    assert report["stages_served"] == 3 * 9


@both
def test_an_edit_needs_the_whole_call(kind):
    unet = models.UNETS[kind]()
    from lib_accel import ImageEdit

    with accelerated(unet, Shallow(), PromptToPrompt(edits=(ImageEdit(1, 0, (None,), self_replace=1.0),))) as accelerator:
        guided.passes(unet, accelerator, 3, (TWO,))
    assert served(accelerator) == 0
    assert accelerator.report().as_dict()["methods"][0]["notes"]


# -- what others do ------------------------------------------------------------------------------------------------------------


def test_residuals_of_a_control_are_joined():
    """diffusers: to what every down stage returns, and to the middle; of stages that do not run there is nothing to join to."""
    unet = models.diffusers_unet()
    given = guided.given_to(TWO)
    shapes = [(32, 16), (32, 16), (32, 8), (32, 8), (32, 4), (32, 4)]
    control = {
        "down_block_additional_residuals": tuple(torch.ones(4, width, size, size) for width, size in shapes),
        "mid_block_additional_residual": torch.ones(4, 32, 4, 4),
    }
    rows = []
    unet.mid_block.resnets[0].register_forward_hook(lambda _, args, out: rows.append(len(args[0])))
    for images, deep in ((None, 0), ((1,), 4)):
        rows.clear()
        with accelerated(unet, Shallow(2, images=images)) as accelerator:
            out = []
            for index in range(2):
                accelerator.step(index, 2, TWO)
                out.append(models.call(unet, given, **control))
        assert torch.equal(*out)
        # Rows of the deep stages alone could not be joined with residuals of all.
        assert rows == [4, deep] if deep else rows == [4]


@both
def test_a_forward_that_runs_the_stages_itself(kind):
    """ControlNet in the WebUI adds to what stages return, whatever that is."""
    unet = models.UNETS[kind]()
    plain = type(unet).forward

    def forward(*args, **kwargs):
        return plain(unet, *args, **kwargs)

    unet.forward = forward
    rows = []
    inside = stages_of(unet)[6].modules[0]
    (inside.resnets if kind == "diffusers" else inside)[0].register_forward_hook(lambda _, args, out: rows.append(len(out)))
    with accelerated(unet, Shallow(images=(1,))) as accelerator:
        guided.passes(unet, accelerator, 2, (TWO,))
    assert rows == [4, 4] and vars(unet)["forward"] is forward
    assert accelerator.report().as_dict()["methods"][0]["notes"]
    with accelerated(unet, Shallow()) as accelerator:
        guided.passes(unet, accelerator, 2, (TWO,))
    assert rows == [4, 4, 4]


def test_free_u_is_joined():
    unet = models.diffusers_unet()
    unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    with accelerated(unet, Shallow(5)) as accelerator:
        out = [guided.step(unet, accelerator, index, 2, timestep=500) for index in range(2)]
    assert torch.equal(out[0][COND.key], out[1][COND.key]) and served(accelerator)


@pytest.mark.parametrize("kind", ["sgm", "diffusers"])
def test_sizes_that_do_not_divide(kind):
    unet = models.UNETS[kind]()
    for before in (1, 3, 5):
        with accelerated(unet, Shallow(before)) as accelerator:
            out = [guided.step(unet, accelerator, index, 2, timestep=500, h=14, w=10) for index in range(2)]
        assert torch.equal(out[0][COND.key], out[1][COND.key]) and served(accelerator)


def test_a_compiled_block_is_run(monkeypatch):
    unet = models.diffusers_unet()
    with accelerated(unet, Shallow()) as accelerator:
        guided.step(unet, accelerator, 0, 2)
        unet.mid_block._compiled_call_impl = unet.mid_block._call_impl
        guided.step(unet, accelerator, 1, 2)
        unet.mid_block._compiled_call_impl = None
    assert served(accelerator) == 0 and accelerator.report().as_dict()["methods"][0]["notes"]


def test_half_precision():
    unet = models.in_dtype(models.diffusers_unet(), torch.bfloat16)
    given = models.inputs(dtype=torch.bfloat16)
    with accelerated(unet, Shallow(2)) as accelerator:
        out = []
        for index in range(2):
            accelerator.step(index, 2, PAIR)
            out.append(models.call(unet, given))
    assert torch.equal(*out) and out[1].dtype == torch.bfloat16


# -- what is left -----------------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("method", [ServeStage(8), Shallow(2), Shallow(2, images=(1,))], ids=["stage", "shallow", "one picture"])
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_nothing_is_left(kind, method, error):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    before = fingerprint(unet)
    accelerator = accelerated(unet, method)
    guided.step(unet, accelerator, 0, 4, (TWO,))
    assert differences(before, fingerprint(unet)) == {""}
    if error:
        handle = stages_of(unet)[12].modules[0].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(error()))
        with pytest.raises(error):
            guided.step(unet, accelerator, 1, 4, (TWO,))
        handle.remove()
        given = models.inputs()
        with torch.no_grad():
            direct = unet.forward(given.latents, given.timestep, given.text, **_more(kind, given))
        assert torch.equal(direct if isinstance(direct, torch.Tensor) else direct.sample, plain)
    else:
        guided.step(unet, accelerator, 1, 4, (TWO,))
        assert differences(before, fingerprint(unet)) == {""}
    accelerator.remove()
    assert not differences(before, fingerprint(unet))
    assert torch.equal(models.call(unet), plain)


def _more(kind, given):
    if "sgm" in kind or kind == "forge-sdxl":
        return {"y": given.text[:, 0]}
    if kind == "diffusers-sdxl":
        return {"added_cond_kwargs": {"text_embeds": given.text[:, 0], "time_ids": torch.full((2, 6), 64.0)}}
    return {}


@every_kind
def test_copies_made_inside_a_shallow_call_come_out_plain(kind):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    copies = []
    with accelerated(unet, Shallow(2)) as accelerator:
        guided.step(unet, accelerator, 0, 2)
        # The host's own classes are imported under names that are given back.
        copies.append(copy.deepcopy(unet) if "host" in kind else pickle.loads(pickle.dumps(unet)))
        handle = unet.register_forward_hook(lambda *_: copies.append(copy.deepcopy(unet)))
        guided.step(unet, accelerator, 1, 2)
        handle.remove()
    copies[1]._forward_hooks.clear()
    for copied in copies:
        assert torch.equal(models.call(copied), plain)


def test_errors_of_our_own_run_the_stage(monkeypatch):
    from serving import ShallowRunner

    monkeypatch.delenv("ACCEL_STRICT")
    unet = models.ldm_unet()
    for spot in ("cut_stages", "observe_stage", "watches"):

        def fail(*_args, **_kwargs):
            raise RuntimeError("on purpose")

        with accelerated(unet, Shallow()) as accelerator, monkeypatch.context() as patch:
            patch.setattr(ShallowRunner, spot, fail)
            guided.passes(unet, accelerator, 3)
        assert served(accelerator) == 0
        assert "RuntimeError: on purpose" in accelerator.report().as_dict()["methods"][0]["failed"]


def test_placeholders_are_never_computed_with():
    real = torch.ones(2, 3, 4, 4)
    one = Placeholder.like(real)
    assert one.shape == real.shape and one.dtype == real.dtype and one.stride() == (0, 0, 0, 0)
    for out in (one + real, real + one, torch.cat([one, real], 1), torch.nn.functional.interpolate(one, (9, 9)), one[:, :2], one.half()):
        assert isinstance(out, Placeholder)
    real += 1
    assert torch.nn.Conv2d(3, 5, 3)(one).shape == real.shape


def test_placeholders_come_apart_into_as_many_as_tensors_do():
    """FreeU takes the highest and the lowest of what enters a stage, with their places."""
    one = Placeholder.like(torch.ones(2, 3, 4, 4))
    highest, place = torch.max(one, dim=1, keepdim=True)
    assert isinstance(highest, Placeholder) and highest.shape == (2, 1, 4, 4) and place.dtype == torch.int64
    assert isinstance(torch.max(one), Placeholder) and one.min(dim=-1).values.shape == (2, 3, 4)
    assert [tuple(part.shape) for part in one.chunk(3, dim=1)] == [(2, 1, 4, 4)] * 3
    first, second = one
    assert isinstance(second, Placeholder) and first.shape == (3, 4, 4)
