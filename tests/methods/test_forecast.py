"""Forecast: which steps run, and what is served in the others; against the formulas written down again in float64."""

import math
from types import SimpleNamespace

import guided
import models
import pytest
import torch
from guided import account
from sampling import LEVELS, rows_of, sample

from lib_accel import Forecast, GuidanceSkip, Row, SettingError, TGate, TokenMerging, accelerated
from lib_accel.core.rows import Layout
from lib_accel.core.samplers import SAMPLERS
from lib_accel.methods.forecast_passes import sampler_of
from lib_accel.methods.guided_error import GuidedError

STEPS = len(LEVELS) - 1
every_kind = pytest.mark.parametrize("kind", ["ldm", "sgm", "diffusers", "diffusers-sdxl"])
FREE = 1000.0


def served_in(accelerator, index=0):
    """Picture -> the steps in which it was served, of the first pass."""
    return {one["picture"]: one["steps"] for one in account(accelerator, index)["served"] if one["pass"] == 1}


def plan(every, first=5, last=1):
    return [step for step in range(first, STEPS - last) if (step - first) % every != every - 1]


# -- what is served --------------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("every", [2, 3])
def test_a_fixed_plan_on_a_line_through_the_last_two_calls(kind, every):
    unet = models.UNETS[kind]()
    with accelerated(unet, Forecast(every=every)) as accelerator:
        run = sample(unet, accelerator)
    served = plan(every)
    assert served_in(accelerator) == {0: served}
    assert [step for step, rows in enumerate(run.ran) if not rows] == served
    for step in served:
        a, b = [other for other in range(step, -1, -1) if other not in served][:2]
        for key, value in run.given[step].items():
            newest, before = run.given[a][key].double(), run.given[b][key].double()
            line = newest + (LEVELS[step] - LEVELS[a]) / (LEVELS[a] - LEVELS[b]) * (newest - before)
            torch.testing.assert_close(value, line.float(), atol=1e-5, rtol=1e-4)


def test_where_noise_is_added_the_picture_is_held():
    unet = models.ldm_unet()
    with accelerated(unet, Forecast(every=2)) as accelerator:
        run = sample(unet, accelerator, "Euler a")
    served = plan(2)
    assert served_in(accelerator) == {0: served}
    x = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(100)).double() * LEVELS[0]
    latents = [x]
    for step in range(STEPS):
        uncond, cond = (run.given[step][role, 0, 0].double() for role in ("uncond", "cond"))
        latents.append(latents[-1] + (LEVELS[step + 1] - LEVELS[step]) * (uncond + 3 * (cond - uncond)))
    for step in served:
        for role in ("uncond", "cond"):
            before = max(other for other in range(step) if other not in served)
            picture = latents[before] - LEVELS[before] * run.given[before][role, 0, 0].double()
            torch.testing.assert_close(run.given[step][role, 0, 0].double(), (latents[step] - picture) / LEVELS[step], atol=1e-4, rtol=1e-4)


class Again:
    """Error control again, in float64: which steps of one picture run, from what ran."""

    def __init__(self, sampler, tolerance, gap, guidance=3.0):
        self.sampler, self.tolerance, self.gap, self.guidance = SAMPLERS[sampler], tolerance, gap, guidance

    def runs(self, given, image, first, last):
        runs, kept, error, step = [], [], None, 0
        while step < STEPS:
            spent, gap = 0.0, 0
            while first <= step < STEPS - last and gap < self.gap and error is not None:
                i, a, b = (LEVELS[other] for other in runs[::-1][:3])
                s = LEVELS[step]
                spent += error * (s - i) * (s - a) / ((i - a) * (i - b)) * s * self.sampler.gain(LEVELS, step)
                if spent > self.tolerance:
                    break
                step, gap = step + 1, gap + 1
            if step == STEPS:
                break
            uncond, cond = (given[step][role, image, 0].double() for role in ("uncond", "cond"))
            truth = uncond + self.guidance * (cond - uncond)
            if len(kept) >= 2:
                (sa, ea), (sb, eb) = kept[-1], kept[-2]
                line = ea + (LEVELS[step] - sa) / (sa - sb) * (ea - eb)
                error = (line - truth).square().mean().sqrt().item()
            kept.append((LEVELS[step], truth))
            runs.append(step)
            step += 1
        return runs


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M"])
@pytest.mark.parametrize(("tolerance", "gap"), [(0.15, 2), (0.6, 2), (3.0, 3)])
def test_error_control_decides_as_specified(sampler, tolerance, gap):
    unet = models.ldm_unet()
    with accelerated(unet, Forecast(tolerance=tolerance, largest_gap=gap, last=1)) as accelerator:
        run = sample(unet, accelerator, sampler, images=3)
    served = served_in(accelerator)
    for image in range(3):
        runs = Again(sampler, tolerance, gap).runs(run.given, image, 5, 1)
        assert served.get(image, []) == [step for step in range(STEPS) if step not in runs]
    assert run.ran == [2 * sum(step not in served.get(image, []) for image in range(3)) for step in range(STEPS)]


def test_pictures_are_decided_each_for_itself():
    """What one picture needs does not stop the others, and changes nothing of them."""
    unet = models.ldm_unet()
    config = Forecast(tolerance=0.6, largest_gap=2, last=1)
    alone = []
    for image in range(4):
        with accelerated(unet, config) as accelerator:
            run = sample(unet, accelerator, first_image=image)
        alone.append((served_in(accelerator).get(0, []), run.latents[0]))
    with accelerated(unet, config) as accelerator:
        run = sample(unet, accelerator, images=4)
    together = served_in(accelerator)
    assert [together.get(image, []) for image in range(4)] == [served for served, _ in alone]
    assert len({tuple(served) for served, _ in alone}) > 1
    for image, (_, latents) in enumerate(alone):
        torch.testing.assert_close(run.latents[image], latents, atol=1e-3, rtol=1e-3)


def test_where_rows_may_not_be_cut_a_batch_is_served_or_runs_as_one():
    """Somebody's hook may look at all rows together. The line tells what that cost."""
    unet, home = models.ldm_unet(), {"__name__": "somebody"}
    exec("def look(module, args, out): pass", home)
    unet.middle_block.register_forward_hook(home["look"])
    with accelerated(unet, Forecast(tolerance=0.6, largest_gap=2, last=1)) as accelerator:
        run = sample(unet, accelerator, images=4)
    together = [served_in(accelerator).get(image, []) for image in range(4)]
    assert set(run.ran) == {0, 8} and all(served == together[0] for served in together)
    assert "pictures that could have been forecast were run with the others: " in str(accelerator.report())


@every_kind
def test_calls_apart_are_decided_together(kind):
    unet = models.UNETS[kind]()
    config = Forecast(tolerance=0.6, largest_gap=2, last=1)
    runs = []
    for apart in (False, True):
        with accelerated(unet, config) as accelerator:
            run = sample(unet, accelerator, images=2, apart=apart)
        runs.append((served_in(accelerator), run.latents))
    assert runs[0][0] == runs[1][0] and any(runs[0][0].values())
    # Latents reach 156; plain runs are up to 0.004 apart, too.
    torch.testing.assert_close(runs[0][1], runs[1][1], atol=1e-2, rtol=1e-3)


def test_the_error_that_counts_is_that_of_the_guided_prediction():
    """Of every way in which rows are combined; where some were dropped, of what is left, which stands for them."""
    generator = torch.Generator().manual_seed(4)
    errors = torch.randn(4, 4, 3, 3, generator=generator, dtype=torch.float64)
    cond, other, image, uncond = Row("cond", 0, 0, 0.7), Row("cond", 0, 1, 0.6), Row("image"), Row("uncond")

    def found(rows, which, guidance=None, scales=None):
        error = GuidedError(3)
        told = SimpleNamespace(guidance=guidance, scales=scales)
        for place, row in zip(which, rows):  # As if every row came in a call of its own.
            error.add(told, Layout([row]), errors[place][None])
        value = error.of(0)
        return None if value is None else value.item()

    def size(error):
        return error.square().mean().sqrt().item()

    c, o, i, u = errors
    assert found([uncond, cond], [3, 0], guidance=7.5) == pytest.approx(size(u + 7.5 * (c - u)), rel=1e-6)
    both = [cond, other, uncond]
    assert found(both, [0, 1, 3], scales=(5.0, None)) == pytest.approx(size(u + 5 * (0.7 * (c - u) + 0.6 * (o - u))), rel=1e-6)
    shares = found(both, [0, 1, 3], guidance=5.0)
    assert shares == pytest.approx(size(u + 5 * (0.7 * (c - u) + 0.6 * (o - u)) / 1.3), rel=1e-6)
    edit = found([Row("cond"), image, uncond], [0, 2, 3], scales=(7.5, 1.5))
    assert edit == pytest.approx(size(u + 7.5 * (c - i) + 1.5 * (i - u)), rel=1e-6)
    assert found([cond], [0], guidance=7.5) == pytest.approx(size(c), rel=1e-6)
    assert found([cond, other], [0, 1]) == pytest.approx(size((0.7 * c + 0.6 * o) / 1.3), rel=1e-6)
    assert found([uncond, cond], [3, 0]) is None and found([Row("cond"), image, uncond], [0, 2, 3], guidance=7.5) is None


@pytest.mark.parametrize("predicts", ["v", "eps"])
def test_models_that_predict_v(predicts):
    """What is served is what was predicted, continued as noise."""
    unet = models.ldm_unet()
    model = models.latent_diffusion(unet)
    model.parameterization = predicts
    with accelerated(model, Forecast(every=2)) as accelerator:
        run = sample(unet, accelerator)
    step, (a, b) = 7, (6, 4)
    assert step in served_in(accelerator)[0]
    key = ("cond", 0, 0)
    x = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(100)).double() * LEVELS[0]
    latents = [x]
    for index in range(STEPS):
        uncond, cond = (run.given[index][role, 0, 0].double() for role in ("uncond", "cond"))
        latents.append(latents[-1] + (LEVELS[index + 1] - LEVELS[index]) * (uncond + 3 * (cond - uncond)))

    def epsilon(index):
        if predicts == "eps":
            return run.given[index][key].double()
        sigma = LEVELS[index]
        return (run.given[index][key].double() + sigma * latents[index] / math.hypot(1, sigma)) / math.hypot(1, sigma)

    line = epsilon(a) + (LEVELS[step] - LEVELS[a]) / (LEVELS[a] - LEVELS[b]) * (epsilon(a) - epsilon(b))
    torch.testing.assert_close(epsilon(step), line, atol=1e-4, rtol=1e-4)


def test_half_precision_and_inpainting_models():
    """Nine channels in, four out; what is served has the model's dtype."""
    unet = models.ldm_unet(in_channels=9)
    with accelerated(unet, Forecast(every=2)) as accelerator:
        sample(unet, accelerator, channels=9)
    assert served_in(accelerator) == {0: plan(2)}


def test_and_prompts_and_three_kinds_of_rows():
    unet = models.ldm_unet()
    with accelerated(unet, Forecast(tolerance=FREE, last=1)) as accelerator:
        sample(unet, accelerator, rows=rows_of(1, parts=2), scales=(3.0, None), guidance=3.0)
    assert served_in(accelerator)[0]
    edit = (Row("cond"), Row("image"), Row("uncond"))
    with accelerated(unet, Forecast(tolerance=FREE, last=1)) as accelerator:
        sample(unet, accelerator, rows=edit, scales=(3.0, 1.5))
    assert served_in(accelerator)[0]
    with accelerated(unet, Forecast(tolerance=FREE, last=1)) as accelerator:
        sample(unet, accelerator, rows=edit)
    assert not served_in(accelerator)


def test_rows_nobody_knows_are_decided_together():
    """By the guidance scale that is told, at its worst; without one nothing is served, but by a fixed plan."""
    unet = models.ldm_unet()

    def run(config, **told):
        with accelerated(unet, config) as accelerator:
            for index in range(STEPS):
                given = guided.given_to((Row("uncond"), Row("cond")), 999 - 60 * index)
                accelerator.step(index, STEPS, None, sampler="Euler", sigma=LEVELS[index], sigmas=LEVELS, **told)
                models.call(unet, given)
        return account(accelerator)

    assert run(Forecast(tolerance=FREE), guidance=3.0)["served"]
    unknown = run(Forecast(tolerance=FREE))
    assert not unknown["served"] and guided.codes(unknown) == ["no_forecast: rows_unknown"]
    assert run(Forecast(every=2))["served"]


# -- when ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "why"),
    [
        (None, "no_sampler"),
        ("res_multistep", "sampler_unknown"),
        ("DPM adaptive", "free_steps"),
        ("Heun", "evaluations"),
        ("LCM", "few_steps"),
        ("DPM++ 3M SDE", "no_better"),
    ],
)
def test_samplers_that_are_not_forecast(sampler, why):
    unet = models.ldm_unet()
    with accelerated(unet, Forecast(tolerance=FREE)) as accelerator:
        run = sample(unet, accelerator, sampler)
    with accelerated(unet) as plain:
        assert torch.equal(run.latents, sample(unet, plain, sampler).latents)
    assert not account(accelerator)["served"] and guided.codes(account(accelerator)) == [f"no_forecast: {why}"]


def test_multistep_samplers_have_no_fixed_plan():
    unet = models.ldm_unet()
    with accelerated(unet, Forecast(every=2, tolerance=1e-9)) as accelerator:
        sample(unet, accelerator, "DPM++ 2M")
    assert not account(accelerator)["served"] and "no_fixed_plan" in guided.codes(account(accelerator))


def test_without_noise_levels_nothing_is_served():
    unet = models.ldm_unet()
    with accelerated(unet, Forecast(tolerance=FREE)) as accelerator:
        for index in range(STEPS):
            guided.step(unet, accelerator, index, STEPS, sampler="Euler", guidance=3.0)
    assert not account(accelerator)["served"] and guided.codes(account(accelerator)) == ["no_forecast: no_level"]


def test_a_fixed_plan_needs_no_list_of_noise_levels():
    """A sampler that nobody knows the list of tells its level at every step."""
    unet = models.ldm_unet()
    ran = guided.rows_run(unet)
    with accelerated(unet, Forecast(every=2)) as accelerator:
        for index in range(STEPS):
            guided.step(unet, accelerator, index, STEPS, sampler="Euler", sigma=LEVELS[index], guidance=3.0)
    assert served_in(accelerator) == {0: plan(2)} and len(ran) == STEPS - len(plan(2))
    assert "error" not in str(accelerator.report())


def test_a_plan_that_leaves_no_step_out_says_so():
    """And another method that would stand back for forecasts does not."""
    unet = models.ldm_unet()
    skip = GuidanceSkip(when="after", after=0.4, reuse=True, only_where_better=True)
    with accelerated(unet, Forecast(every=1), skip) as accelerator:
        sample(unet, accelerator)
    assert guided.codes(account(accelerator)) == ["no_forecast: runs_all"] and account(accelerator, 1)["evaluations_saved"]


def test_a_short_pass_says_so():
    unet = models.ldm_unet()
    sigmas = LEVELS[-7:]
    with accelerated(unet, Forecast()) as accelerator:
        run = sample(unet, accelerator, sigmas=sigmas)
    assert run.ran == [2] * 6 and "too_short" in guided.codes(account(accelerator))


def test_warm_up_and_last_steps():
    unet = models.ldm_unet()
    for config, steps in (
        (Forecast(tolerance=FREE, largest_gap=9, last=0), range(5, 12)),
        (Forecast(tolerance=FREE, largest_gap=9, last=3), range(5, 9)),
        (Forecast(tolerance=FREE, largest_gap=9, last=0, warm_up=0.7), range(9, 12)),
        (Forecast(tolerance=FREE, largest_gap=9, last=0, warm_sigma=0.5), range(8, 12)),
        (Forecast(tolerance=FREE, largest_gap=9, last=0, window=(0.5, 0.75)), range(6, 9)),
    ):
        with accelerated(unet, config) as accelerator:
            sample(unet, accelerator)
        assert served_in(accelerator)[0] == list(steps), config


@pytest.mark.parametrize(
    "told",
    [
        {"settled": lambda step: 6},
        {"state": lambda step: step < 6},
        {"guidance": lambda step: 3.0 if step < 6 else 4.0},
    ],
    ids=["prompts", "state", "guidance"],
)
def test_what_changes_the_prediction_begins_anew(told):
    """What went before is not continued; the steps after warm up again."""
    unet = models.ldm_unet()
    sigmas = (*(14.6 * 0.75**k for k in range(20)), 0.0)
    with accelerated(unet, Forecast(tolerance=FREE, largest_gap=9, last=0)) as accelerator:
        sample(unet, accelerator, sigmas=sigmas, **told)
    served = served_in(accelerator)[0]
    assert next(step for step in served if step >= 6) == 11 and (5 in served) == ("settled" not in told)


def test_another_size_begins_anew():
    unet = models.ldm_unet()
    with accelerated(unet, Forecast(every=2)) as accelerator:
        sample(unet, accelerator)
        accelerator.new_pass()
        run = sample(unet, accelerator, size=24)
    assert [not rows for rows in run.ran] == [step in plan(2) for step in range(STEPS)]


def test_a_pass_that_is_joined_late_warms_up():
    """Behind a refiner's switch: another model has its own beginning."""
    unet = models.ldm_unet()
    with accelerated(unet, Forecast(tolerance=FREE, largest_gap=9, last=0)) as accelerator:
        run = sample(unet, accelerator, begin=4)
    assert served_in(accelerator)[0] == list(range(9, 12)) and run.ran[:5] == [2] * 5


def test_a_host_may_forbid_it():
    unet = models.ldm_unet()
    with accelerated(unet, Forecast(every=2)) as accelerator:
        sample(unet, accelerator, whole_because="somebody counts calls")
    assert not account(accelerator)["served"] and guided.codes(account(accelerator)) == ["no_forecast"]


# -- beside others ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [TGate(gate=0.6), GuidanceSkip(when="after", after=0.4, reuse=True, every=2), TokenMerging(ratio=0.3)],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.parametrize("first", [True, False])
def test_beside_other_methods(other, first):
    """A served step is no evaluation for them; both act."""
    unet = models.ldm_unet()
    config = Forecast(tolerance=FREE, largest_gap=1, last=1)
    with accelerated(unet, *((config, other) if first else (other, config)), auto=False) as accelerator:
        run = sample(unet, accelerator, images=2)
    report = accelerator.report().as_dict()
    mine = account(accelerator, 0 if first else 1)
    assert mine["served"] and report["calls_served"] and torch.isfinite(run.latents).all()
    assert report["rows_run"] == sum(run.ran)
    his = account(accelerator, 1 if first else 0)
    assert his["evaluations_saved"] or his["layers"]


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M"])
def test_a_picture_is_served_whole_or_not_at_all(sampler):
    """Where guidance was skipped the half without prompt is older than the other, and has to run: the other half runs, too."""
    unet, levels = models.ldm_unet(), (*(14.6 * 0.75**step for step in range(20)), 0.0)
    methods = (Forecast(tolerance=FREE, largest_gap=2), GuidanceSkip(when="after", after=0.2, reuse=True, every=7))
    with accelerated(unet, *methods, auto=False) as accelerator:
        run = sample(unet, accelerator, sampler, levels, images=2, guidance=7.0)
    served = served_in(accelerator)
    assert served[0] and not any(run.ran[step] for steps in served.values() for step in steps)
    assert accelerator.report().as_dict()["calls_served"] == len(served[0])


@every_kind
def test_nothing_is_kept_when_it_is_over(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, Forecast(every=2)) as accelerator:
        sample(unet, accelerator)
        runner = accelerator.running(Forecast)
        assert account(accelerator)["cache_bytes"] == 2 * 2 * 4 * 16 * 16 * 4
    assert len(runner._kept) == 0


def test_the_report_counts_pictures():
    unet = models.ldm_unet()
    with accelerated(unet, Forecast(tolerance=0.6, largest_gap=2, last=1)) as accelerator:
        run = sample(unet, accelerator, images=4)
    report = accelerator.report().as_dict()
    served = served_in(accelerator)
    assert report["rows_served"] == 2 * sum(map(len, served.values()))
    assert report["rows_run"] + report["rows_served"] == report["rows"] == 4 * 2 * STEPS
    assert report["calls_served"] == sum(rows == 0 for rows in run.ran)
    assert "forecast" in str(accelerator.report()).lower()


@pytest.mark.parametrize(
    "bad",
    [{"level": "bold"}, {"tolerance": -1.0}, {"every": 11}, {"order": 2}, {"warm_up": 1.5}, {"last": -2}, {"largest_gap": 0.5}],
    ids=str,
)
def test_bad_values_get_a_sentence(bad):
    (name,) = bad
    with pytest.raises(SettingError, match=f"Forecast.{name} is "):
        Forecast(**bad)


def test_what_did_nothing_counts_no_layers():
    """It acts on whole steps: none of so many layers would be an odd thing to say."""
    unet = models.ldm_unet()
    with accelerated(unet, Forecast(tolerance=1e-9, last=1)) as accelerator:
        sample(unet, accelerator)
    assert "Forecast: nothing [forecasts were too far off in every step]" in str(accelerator.report())


def test_a_level_may_warm_up_for_longer_than_its_sampler():
    sampler = SAMPLERS["DPM++ 2M"]
    begins = {level: Forecast(level=level).steps_between(sampler, 25).start for level in ("careful", "middle", "fast")}
    assert begins == {"careful": 6, "middle": 8, "fast": 6}
    assert Forecast(warm_up=0.4).steps_between(sampler, 25).start == 10


def test_a_level_may_run_other_last_steps_than_its_sampler():
    ends = {level: Forecast(level=level).steps_between(SAMPLERS["Euler"], 25).stop for level in ("fast", "fastest", "draft")}
    assert ends == {"fast": 23, "fastest": 24, "draft": 24}
    assert Forecast(level="draft", last=3).steps_between(SAMPLERS["Euler"], 25).stop == 22


def test_models_of_flow_matching_have_levels_of_their_own():
    """They were measured apart: at the others' levels fast and fastest their worst pictures showed something else."""
    told = {mixed: sampler_of(SimpleNamespace(sampler=SAMPLERS["Euler"], mixed=mixed)) for mixed in ("", "flow")}
    found = {mixed: [Forecast(level=level).control(sampler).tolerance for level in ("fast", "fastest")] for mixed, sampler in told.items()}
    assert found == {"": [0.2, 0.4], "flow": [0.08, 0.2]}
    assert not Forecast(level="fastest").keeps_guidance(SAMPLERS["DPM++ 2M"].on_flow())
    assert Forecast(level="fastest").keeps_guidance(SAMPLERS["DPM++ 2M"])
