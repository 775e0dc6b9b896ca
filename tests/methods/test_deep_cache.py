"""DeepCache: the published runs, which steps run in whole, and what it does beside others."""

import diffusers
import guided
import models
import pytest
import torch
from golden import DATA, read_json
from guided import COND, PAIR, UNCOND, account
from safetensors.torch import load_file
from serving import ServeCalls, res_blocks_run
from traces import differences, fingerprint

from lib_accel import DeepCache, Forecast, GuidanceSkip, ImageEdit, PromptToPrompt, Row, TGate, TokenMerging, accelerated
from lib_accel.backends import backend_for
from lib_accel.core.fields import SettingError
from lib_accel.core.rows import Layout
from lib_accel.core.samplers import sampler_named
from lib_accel.cost.estimate import SHAPES, step_work
from lib_accel.methods.kept_stages import KeptStages

both = pytest.mark.parametrize("kind", models.BOTH)
TWO = (Row("uncond", 0), Row("uncond", 1), Row("cond", 0), Row("cond", 1))
RUNS = read_json("deepcache/tiny_unet")
PUBLISHED = {"warm_up": 0, "last": 0, "order": 0}
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "euler": ("EulerDiscreteScheduler", {}),
}


@pytest.fixture(scope="module")
def stored():
    return load_file(DATA / "deepcache/tiny_unet.safetensors")


@pytest.mark.parametrize("case", RUNS["cases"], ids=lambda case: case["name"])
def test_published_runs(stored, case):
    unet = diffusers.UNet2DConditionModel(**RUNS["unet_config"])
    unet.load_state_dict({name.removeprefix("w."): tensor.float() for name, tensor in stored.items() if name.startswith("w.")})
    pipe = models.pipeline(unet.eval().requires_grad_(False))
    name, settings = SCHEDULERS[case["scheduler"]]
    pipe.scheduler = getattr(diffusers, name)(**RUNS["scheduler_common"], steps_offset=1, **settings)
    given = {name.split(".", 2)[2]: tensor for name, tensor in stored.items() if name.startswith(f"in.{case['input']}.")}
    made = []
    method = DeepCache(every=case["cache_interval"], branch=case["cache_branch_id"] or 0, **PUBLISHED)
    with accelerated(pipe, method) as accelerator:
        pipe(
            **given,
            num_inference_steps=case["steps"],
            guidance_scale=RUNS["guidance_scale"],
            output_type="latent",
            callback_on_step_end=lambda pipe, step, timestep, tensors: made.append(tensors["latents"].clone()) or {},
            height=64,
            width=64,
        )
    torch.testing.assert_close(torch.stack(made), stored[f"{case['name']}.latents"].float(), atol=1e-4, rtol=1e-4)
    whole = -(-case["steps"] // case["cache_interval"])
    assert account(accelerator)["shallow_steps"] == case["steps"] - whole


def shallow_steps(unet, accelerator, total, calls=(PAIR,), **told):
    """In which steps fewer ResBlocks ran than the U-Net has, and the predictions."""
    ran = res_blocks_run(unet)
    whole = len([m for m in unet.modules() if type(m).__name__ in ("ResBlock", "ResnetBlock2D")]) * len(calls)
    steps, out = [], []
    for index in range(total):
        ran.clear()
        out.append(guided.step(unet, accelerator, index, total, calls, **told))
        if len(ran) < whole:
            steps.append(index)
    return steps, out


# -- which steps ---------------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("calls", [(PAIR,), ((COND,), (UNCOND,))], ids=["together", "apart"])
def test_steps_between_whole_ones_are_shallow(kind, calls):
    unet = models.UNETS[kind]()
    method = DeepCache(every=3, warm_up=0.25, last=1)
    with accelerated(unet, method) as accelerator:
        steps, _ = shallow_steps(unet, accelerator, 8, calls)
    assert steps == [2, 3, 5, 6]
    assert steps == [step for step, kinds in enumerate(method.schedule(8).kinds) if kinds]
    report = accelerator.report().as_dict()
    told = report["methods"][0]
    assert (told["shallow_steps"], told["rows_shallow"], told["idle"]) == (4, 8, None)
    assert told["cache_bytes"] and report["stages_served"] and report["stages_run"]


@both
@pytest.mark.parametrize("branch", [0, 2, "top level", "two levels", 11])
def test_what_is_served_is_what_was_kept(kind, branch):
    """With the same input a shallow step gives the same output, whatever the branch."""
    unet = models.UNETS[kind]()
    with accelerated(unet, DeepCache(branch=branch, warm_up=0, last=0)) as accelerator:
        steps, out = shallow_steps(unet, accelerator, 2, timestep=500)
    assert steps == [1]
    for row in PAIR:
        torch.testing.assert_close(out[1][row.key], out[0][row.key], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", models.UNETS)
def test_names_of_branches_are_levels(kind):
    stages = backend_for(models.UNETS[kind]()).find_stages(models.UNETS[kind]())
    for name, level in (("top level", 0), ("two levels", 1)):
        before = DeepCache(branch=name).before(stages)
        assert before.level == level and stages[before.index - 1].level > level
    assert DeepCache().before(stages) is stages[-1] and DeepCache(branch=11).before(stages).place == "up"


@both
def test_windows_short_passes_and_every_step(kind):
    unet = models.UNETS[kind]()
    for method, expected in (
        (DeepCache(warm_up=0, last=0, window=(0.5, 1)), [4, 6]),
        (DeepCache(every=1, warm_up=0, last=0), []),
        (DeepCache(warm_up=1), []),
    ):
        with accelerated(unet, method) as accelerator:
            steps, _ = shallow_steps(unet, accelerator, 8)
        assert steps == expected
        assert bool(account(accelerator)["idle"]) == (not expected)


@both
def test_a_line_through_the_last_two(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, DeepCache(warm_up=0.5, last=0, order=1)) as accelerator:
        for index, sigma in enumerate((4.0, 3.0, 2.5)):
            guided.step(unet, accelerator, index, 4, sigma=sigma)
        runner = accelerator.running(DeepCache)
        newest, before = (one.tensor for one in runner._kept._history.newest("hidden", COND, 2))
        served = runner._kept.at(Layout([COND]), runner._sigma)[0]
    torch.testing.assert_close(served, newest + 0.5 * (newest - before), atol=1e-4, rtol=1e-4)
    assert account(accelerator)["shallow_steps"] == 1


def test_the_order_goes_by_the_sampler():
    def order(sampler, **settings):
        return DeepCache(**settings).order_of(sampler and sampler_named(sampler))

    assert [order(name) for name in ("Euler", "Euler a", "DPM++ 2M", None)] == [1, 0, 0, 0]
    assert order("DPM++ 2M", order=0.5) == 0.5


@both
def test_a_tolerance_runs_what_would_be_too_far_off(kind):
    unet = models.UNETS[kind]()
    for tolerance, expected in ((1000, [2, 4]), (1e-9, [])):
        with accelerated(unet, DeepCache(tolerance=tolerance, warm_up=0.3, last=1)) as accelerator:
            assert shallow_steps(unet, accelerator, 6)[0] == expected
        assert guided.codes(account(accelerator)) == ([] if expected else ["kept_too_far_off"])


@both
def test_every_step_runs_until_the_noise_is_low_enough(kind):
    unet, sigmas = models.UNETS[kind](), (10.0, 8.0, 6.0, 4.0, 3.0, 2.0, 1.0, 0.5)
    for limit, expected in ((0, [1, 3, 5]), (3.0, [4, 6]), (2.9, [5]), (0.1, [])):
        ran, steps = res_blocks_run(unet), []
        with accelerated(unet, DeepCache(warm_up=0, last=1, warm_sigma=limit)) as accelerator:
            for index, sigma in enumerate(sigmas):
                before = len(ran)
                guided.step(unet, accelerator, index, len(sigmas), sigma=sigma)
                steps.append(len(ran) - before)
        assert [index for index, count in enumerate(steps) if count < max(steps)] == expected


def test_guidance_that_comes_and_goes_leaves_nothing_and_that_is_told():
    unet = models.ldm_unet()
    with accelerated(unet, DeepCache(warm_up=0.6)) as accelerator:
        for step in range(5):
            # Step 3 is the one between: what was kept last is of one half only.
            guided.step(unet, accelerator, step, 5, ((COND,),) if step == 2 else (PAIR,))
    assert guided.codes(account(accelerator)) == ["never_all_rows"] and not account(accelerator)["shallow_steps"]


@both
def test_two_evaluations_of_a_step_are_alike(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, DeepCache(warm_up=0, last=0)) as accelerator:
        ran = res_blocks_run(unet)
        counts = []
        for index in range(4):
            for evaluation in range(2):
                ran.clear()
                guided.step(unet, accelerator, index, 5, timestep=900 - 100 * (index + evaluation), evaluation=evaluation)
                counts.append(len(ran))
    assert counts[0] == counts[1] == counts[4] == counts[5] > counts[2] == counts[3] == counts[6] == counts[7]


@both
@pytest.mark.parametrize("order", ["by sampler", 0, 1])
def test_noise_that_rises_again_lets_go_of_what_was_kept(kind, order):
    """Restart draws a part of the pass again. DPM2 a's second evaluations are about where its next steps begin: that is no turn."""
    unet = models.UNETS[kind]()
    restart = (10, 5, 2, 1, 0.5, 0.2, 0.1, 2.0, 1.0, 0.5, 0.2, 0.1)
    levels = {"down": (8, 4, 2, 1.0, 1.00001, 0.5), "up": (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)}
    for sigmas, expected in ((restart, [1, 3, 5, 8, 10]), (levels["down"], [1, 3, 5]), (levels["up"], [1, 3, 5])):
        ran, steps = res_blocks_run(unet), []
        with accelerated(unet, DeepCache(warm_up=0, last=0, order=order)) as accelerator:
            for index, sigma in enumerate(sigmas):
                before = len(ran)
                guided.step(unet, accelerator, index, len(sigmas), sigma=float(sigma), sampler="Restart")
                steps.append(len(ran) - before)
        assert [index for index, count in enumerate(steps) if count < max(steps)] == expected


def test_pipelines_and_their_second_pictures():
    pipe = models.pipeline(models.diffusers_unet())
    with accelerated(pipe, DeepCache(**PUBLISHED)) as accelerator:
        first = models.picture(pipe, steps=4)
        second = models.picture(pipe, steps=4)
    assert torch.equal(torch.as_tensor(first), torch.as_tensor(second))
    assert account(accelerator)["shallow_steps"] == 4


@both
def test_bare_unets(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, DeepCache(warm_up=0)) as accelerator:
        for timestep in (999, 700, 500, 300):
            models.call(unet, models.inputs(timestep=timestep))
    assert account(accelerator)["shallow_steps"] == 2


# -- beside others -------------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("order", [1, -1])
def test_guidance_that_ends_between_whole_steps(kind, order):
    """The published helper loses the run there."""
    unet = models.UNETS[kind]()
    rows = guided.rows_run(unet)
    methods = (DeepCache(every=3, **PUBLISHED), TGate(gate_step=5))[::order]
    with accelerated(unet, *methods) as accelerator:
        steps, out = shallow_steps(unet, accelerator, 10)
    # 4 is the step before the gate, which T-GATE needs whole; whole steps are counted from there.
    assert rows == [2] * 5 + [1] * 5 and steps == [1, 2, 5, 6, 8, 9]
    assert all(torch.equal(one[COND.key], one[UNCOND.key]) and one[COND.key].isfinite().all() for one in out[5:])


@both
def test_rows_that_come_back_run_in_whole_with_their_pictures(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, DeepCache(every=4, **PUBLISHED)) as accelerator:
        for index, calls in enumerate(((PAIR,), (PAIR,), ((COND,),), ((COND,),), ((COND,),), (PAIR,), (PAIR,))):
            guided.step(unet, accelerator, index, 7, calls)
    # 4 was whole on the conditional row alone, so 5 is whole for both.
    told = account(accelerator)
    assert (told["shallow_steps"], told["rows_shallow"]) == (4, 6)


@both
def test_pictures_that_join_and_sizes_that_change(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, DeepCache(every=4, **PUBLISHED)) as accelerator:
        guided.step(unet, accelerator, 0, 8, (PAIR,))
        guided.step(unet, accelerator, 1, 8, (TWO,))
        assert account(accelerator)["rows_shallow"] == 2
        guided.step(unet, accelerator, 2, 8, (TWO,), h=24, w=16)
        assert account(accelerator)["rows_shallow"] == 2
        guided.step(unet, accelerator, 3, 8, (TWO,), h=24, w=16)
    assert account(accelerator)["rows_shallow"] == 6 and not account(accelerator)["failed"]


@both
def test_a_new_pass_keeps_nothing(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, DeepCache(every=4, **PUBLISHED)) as accelerator:
        guided.step(unet, accelerator, 0, 8)
        accelerator.new_pass()
        guided.step(unet, accelerator, 1, 8)
        assert account(accelerator)["shallow_steps"] == 0
        guided.step(unet, accelerator, 2, 8)
    assert account(accelerator)["shallow_steps"] == 1


@both
def test_prompts_that_change_and_edits(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, DeepCache(**PUBLISHED)) as accelerator:
        steps, _ = shallow_steps(unet, accelerator, 6, settled=3)
    assert steps == [4] and account(accelerator)["notes"]
    edits = PromptToPrompt(edits=(ImageEdit(1, 0, (None,), self_replace=0.5),))
    with accelerated(unet, DeepCache(**PUBLISHED), edits) as accelerator:
        steps, _ = shallow_steps(unet, accelerator, 6, (TWO,))
    assert steps == [3, 5]


@both
def test_and_prompts(kind):
    unet = models.UNETS[kind]()
    rows = (COND, Row("cond", 0, 1, 0.5), UNCOND)
    with accelerated(unet, DeepCache(**PUBLISHED)) as accelerator:
        steps, _ = shallow_steps(unet, accelerator, 4, (rows,))
    assert steps == [1, 3] and account(accelerator)["rows_shallow"] == 6


@both
def test_tokens_are_merged_in_the_stages_that_run(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, TokenMerging(), DeepCache(branch="top level", **PUBLISHED), auto=False) as accelerator:
        merged = []
        for index in range(2):
            guided.step(unet, accelerator, index, 2)
            merged.append(account(accelerator)["layer_calls"])
    assert 0 < merged[1] - merged[0] <= merged[0] and account(accelerator, 1)["shallow_steps"] == 1


@both
def test_a_kept_direction_is_learnt_in_whole_steps(kind):
    unet = models.UNETS[kind]()
    skip = GuidanceSkip(when="after", after=0.25, reuse=True, decay=1.0)
    with accelerated(unet, skip, DeepCache(every=2, **PUBLISHED)) as accelerator:
        _, out = shallow_steps(unet, accelerator, 8)
    direction = out[0][COND.key] - out[0][UNCOND.key]
    for one in out[2:]:
        torch.testing.assert_close(one[COND.key] - one[UNCOND.key], direction, atol=1e-4, rtol=1e-4)


@both
def test_beside_calls_that_are_served_as_a_whole(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, DeepCache(every=4, **PUBLISHED), ServeCalls(every=2, images=(1,))) as accelerator:
        out = guided.passes(unet, accelerator, 4, (TWO,))
    told = account(accelerator)
    assert not told["failed"] and told["rows_shallow"] == 2 + 4 + 2
    assert torch.equal(out[1][TWO[1].key], out[0][TWO[1].key])


def test_residuals_of_a_control_make_every_step_whole():
    unet = models.diffusers_unet()
    given = guided.given_to(PAIR)
    unet_config = unet.config
    widths = unet_config.block_out_channels
    mid = torch.zeros(2, widths[-1], 4, 4)
    with accelerated(unet, DeepCache(**PUBLISHED)) as accelerator, torch.no_grad():
        for index in range(3):
            accelerator.step(index, 3, PAIR)
            unet(given.latents, given.timestep, given.text, mid_block_additional_residual=mid)
    assert account(accelerator)["shallow_steps"] == 0 and account(accelerator)["notes"]


@both
def test_a_foreign_forward_makes_every_step_whole(kind):
    unet = models.UNETS[kind]()
    plain = unet.forward
    unet.forward = lambda *args, **kwargs: plain(*args, **kwargs)
    with accelerated(unet, DeepCache(**PUBLISHED)) as accelerator:
        steps, _ = shallow_steps(unet, accelerator, 4)
    assert steps == [] and account(accelerator)["notes"]


@both
@pytest.mark.parametrize("offload", [False, True])
def test_off_is_exact_and_nothing_is_left(kind, offload):
    unet = models.UNETS[kind]()
    plain, before = models.call(unet), fingerprint(unet)
    with accelerated(unet, DeepCache(offload=offload, **PUBLISHED)) as accelerator:
        guided.passes(unet, accelerator, 3)
        assert account(accelerator)["shallow_steps"] == 1
    assert not differences(before, fingerprint(unet)) and torch.equal(models.call(unet), plain)


# -- what it says of itself ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, side, parts",
    [("sd1", 64, {0: 7.9, 1: 22.4, "top level": 38.0}), ("sdxl", 128, {0: 1.5, 2: 6.6, 3: 12.9, "two levels": 30.6, 6: 43.7})],
)
def test_the_work_of_a_shallow_step(shape, side, parts):
    plain = step_work(SHAPES[shape], side, side)
    for branch, part in parts.items():
        work = step_work(SHAPES[shape], side, side, [(DeepCache(branch=branch), ("shallow",))])
        assert 100 * work / plain == pytest.approx(part, abs=0.06)


@pytest.mark.parametrize(
    "bad", [{"every": 0}, {"branch": 12}, {"branch": "third level"}, {"warm_up": 1.5}, {"order": 2}, {"tolerance": -1}]
)
def test_bad_values(bad):
    with pytest.raises(SettingError, match=f"DeepCache.{next(iter(bad))} is"):
        DeepCache(**bad)


@pytest.mark.parametrize(
    ("schedule", "beside", "code", "shallow"),
    [
        ("EulerDiscreteScheduler", (), [], 4),
        ("EulerDiscreteScheduler", (Forecast(),), ["forecast_instead"], 0),
        ("EulerAncestralDiscreteScheduler", (), ["adds_noise"], 0),
        ("PNDMScheduler", (Forecast(),), [], 4),
    ],
)
def test_it_stands_aside_where_something_better_is_at_work(schedule, beside, code, shallow):
    """Also in the look ahead. PLMS cannot be forecast."""
    pipe = models.pipeline(schedule=schedule)
    cache = DeepCache(every=2, warm_up=0.2, only_where_better=True)
    with accelerated(pipe, *beside, cache) as accelerator:
        models.picture(pipe, 10)
        told = next(told for told in accelerator.report().as_dict()["methods"] if told["method"] == "DeepCache")
    assert (guided.codes(told), told["shallow_steps"]) == (code, shallow)
    assert ("DeepCache" in str(accelerator.report())) is (code != ["forecast_instead"])
    name = {"EulerDiscreteScheduler": "Euler", "EulerAncestralDiscreteScheduler": "Euler a", "PNDMScheduler": "PLMS"}[schedule]
    assert cache.stands_aside((*beside, cache), 10, name) is bool(code)


@pytest.mark.parametrize("calls", [[(0, 1)], [(0,), (1,)], [(1,), (0,)]], ids=["together", "apart", "backwards"])
def test_what_is_off_by_most_counts_however_a_batch_is_split(calls):
    rows, kept, drifts = (Row("cond"), Row("uncond")), KeptStages(), []
    for step, values in enumerate(((1.0, 1.0), (2.0, 1.01), (2.0, 1.01))):
        for places in calls:
            out = torch.cat([torch.full((1, 1, 2, 2), values[place]) for place in places])
            layout = Layout(rows[place] for place in places)
            kept.measure(step, layout, out, None)
            kept.put(step, layout, out, None)
        drifts.append(kept.drift(0))
    assert drifts[1:] == pytest.approx([0.5, 0.0])
