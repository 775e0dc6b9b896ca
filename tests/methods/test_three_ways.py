"""Forecast with DeepCache: for each picture and step one decision among a forecast, the shallow stages alone, and a whole call."""

import math
import threading

import guided
import models
import pytest
import torch
from guided import account
from sampling import LEVELS, rows_of, sample

from lib_accel import DeepCache, Forecast, GuidanceSkip, ImageEdit, PromptToPrompt, Row, TGate, TokenMerging, accelerated
from lib_accel.core.error_control import ErrorControl
from lib_accel.core.forecasting import Control
from lib_accel.core.noise import Noise
from lib_accel.core.samplers import SAMPLERS
from lib_accel.cost.preview import ran_pass
from lib_accel.engine.second_run import SecondRuns
from lib_accel.settings.job import resolve

STEPS = len(LEVELS) - 1
GUIDANCE = 3.0
both = pytest.mark.parametrize("kind", models.BOTH)


def courses(accelerator, picture=0):
    """(steps forecast, steps of shallow stages) of the first pass; of all pictures the second."""
    forecast, deep = account(accelerator, 0), account(accelerator, 1)
    served = next((one["steps"] for one in forecast["served"] if one["pass"] == 1 and one["picture"] == picture), [])
    return served, next((one["steps"] for one in deep["shallow_in"] if one["pass"] == 1), [])


def called(unet, x, step, accelerator=None, place=0, places=1):
    """Both rows' predictions, float64."""
    sigma = LEVELS[step]
    if accelerator is not None:
        accelerator.step(place, places, rows_of(1), guidance=GUIDANCE, sigma=sigma, sampler="Euler", sigmas=None)
    latents = torch.cat([x, x]).float() / math.hypot(1, sigma)
    text = guided.given_to(rows_of(1)).text
    return models.call(unet, models.SimpleNamespace(latents=latents, timestep=torch.full((2,), 999 * sigma / 14.6), text=text)).double()


def shallow(unet, kept, x, step, order):
    """What the shallow stages predict for ``x`` with features of the calls ``kept`` [(latents, step)]: a pass of DeepCache alone."""
    kept = kept[-2:] if order else kept[-1:]
    count = len(kept) + 1
    method = DeepCache(every=10, warm_up=(count - 1) / count, last=0, order=order)
    with accelerated(unet, method) as accelerator:
        for place, (latents, earlier) in enumerate(kept):
            called(unet, latents, earlier, accelerator, place, count)
        out = called(unet, x, step, accelerator, count - 1, count)
        assert account(accelerator)["shallow_steps"] == 1
    return out


class Again:
    """The decisions and the picture again, in the specification's words: nothing of it goes through the methods at work together."""

    def __init__(self, unet, sampler, tolerance, gap, most, first, last=1):
        self.unet, self.sampler, self.order = unet, SAMPLERS[sampler], 1 if sampler == "Euler" else 0
        self.tolerance, self.gap, self.most, self.first, self.last = tolerance, gap, most, first, last
        self.served, self.shallow = [], []
        # Calls that ran in whole: (level, guided prediction), (latents, step); and what was continued since the last of them.
        self.whole, self.features, self.since = [], [], []
        self.forecast_error = self.shallow_error = None

    def run(self):
        x = torch.randn((4, 16, 16), generator=torch.Generator().manual_seed(100)).double()[None] * LEVELS[0]
        self.left, self.in_a_row, self.shallows = self.tolerance, 0, 0
        for step in range(STEPS):
            x = x + (LEVELS[step + 1] - LEVELS[step]) * self.prediction(x, step)
        return x[0]

    def prediction(self, x, step):
        level, between = LEVELS[step], self.first <= step < STEPS - self.last
        points = (self.whole[-1:] + self.since if self.since else self.whole)[-2:]
        gain = level * self.sampler.gain(LEVELS, step)
        if between and self.forecast_error is not None:
            expected = self.forecast_error * abs((level - points[0][0]) * (level - points[1][0])) * gain
            if self.in_a_row < self.gap and expected <= self.left:
                self.served.append(step)
                self.left, self.in_a_row = self.left - expected, self.in_a_row + 1
                return line(points, level)
        if between and self.shallow_error is not None and self.shallows < self.most:
            expected = self.shallow_error * self.reach(level) * gain
            if expected <= self.left:
                self.shallow.append(step)
                self.left, self.in_a_row, self.shallows = self.left - expected, 0, self.shallows + 1
                truth = combined(shallow(self.unet, self.features, x, step, self.order))
                self.since.append((level, truth))
                return truth
        truth = combined(called(self.unet, x, step))
        measured = self.first <= step + 1 < STEPS - self.last
        self.forecast_error = self.shallow_error = None
        if measured and len(points) == 2:
            self.forecast_error = rms(line(points, level) - truth) / abs((level - points[0][0]) * (level - points[1][0]))
        if measured and len(self.features) > self.order:
            self.shallow_error = rms(combined(shallow(self.unet, self.features, x, step, self.order)) - truth) / self.reach(level)
        self.whole.append((level, truth))
        self.features.append((x, step))
        self.since, self.left, self.in_a_row, self.shallows = [], self.tolerance, 0, 0
        return truth

    def reach(self, level):
        levels = [kept[0] for kept in self.whole]
        return abs(level - levels[-1]) * (abs(level - levels[-2]) if self.order else 1)


def combined(rows):
    return rows[:1] + GUIDANCE * (rows[1:] - rows[:1])


def line(points, level):
    (before, old), (newest, new) = points
    return new + (level - newest) / (newest - before) * (new - old)


def rms(error):
    return error.square().mean().sqrt().item()


@both
@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M"])
@pytest.mark.parametrize(("tolerance", "gap", "every"), [(0.2, 1, 2), (0.6, 2, 3), (1.5, 1, 4)])
def test_decides_as_specified(kind, sampler, tolerance, gap, every):
    unet = models.UNETS[kind]()
    again = Again(unet, sampler, tolerance, gap, every - 1, first=5)
    latents = again.run()
    with accelerated(unet, Forecast(tolerance=tolerance, largest_gap=gap, last=1), DeepCache(every=every)) as accelerator:
        run = sample(unet, accelerator, sampler, guidance=GUIDANCE)
    assert courses(accelerator) == (again.served, again.shallow)
    torch.testing.assert_close(run.latents[0].double(), latents, atol=2e-3, rtol=1e-3)


def test_every_way_is_taken_in_these():
    """Or the test above would show nothing."""
    unet, found = models.ldm_unet(), []
    for sampler in ("Euler", "DPM++ 2M"):
        for tolerance, gap, most in ((0.2, 1, 1), (0.6, 2, 2), (1.5, 1, 3)):
            again = Again(unet, sampler, tolerance, gap, most, first=5)
            again.run()
            found.append((bool(again.served), bool(again.shallow)))
    assert found.count((True, True)) >= 3, found


@both
@pytest.mark.parametrize("apart", [False, True])
def test_pictures_are_decided_each_for_itself(kind, apart):
    """In whatever calls their rows come, and whichever method was given first."""
    unet, forecast, deep = models.UNETS[kind](), Forecast(tolerance=0.6, largest_gap=2, last=1), DeepCache(every=3)
    alone, rows = [], 0
    for image in range(3):
        with accelerated(unet, forecast, deep) as accelerator:
            run = sample(unet, accelerator, first_image=image, apart=apart)
        alone.append((courses(accelerator)[0], run.latents[0]))
        rows += account(accelerator, 1)["rows_shallow"]
    for methods in ((forecast, deep), (deep, forecast)):
        with accelerated(unet, *methods) as accelerator:
            run = sample(unet, accelerator, images=3, apart=apart)
        told = {one["method"]: one for one in accelerator.report().as_dict()["methods"]}
        served = {one["picture"]: one["steps"] for one in told["Forecast"]["served"]}
        assert [served.get(image, []) for image in range(3)] == [steps for steps, _ in alone]
        assert told["DeepCache"]["rows_shallow"] == rows > 0
        for image, (_, latents) in enumerate(alone):
            torch.testing.assert_close(run.latents[image], latents, atol=1e-3, rtol=1e-3)


@both
def test_second_runs_are_told_and_keep_nothing(kind):
    """The shallow stages run again behind whole calls whose step another may follow, and leave no trace in what other methods count."""
    unet = models.UNETS[kind]()
    merging = TokenMerging(plan_every=3)
    told = []
    for methods in ((merging,), (merging, Forecast(tolerance=1e-9, last=1), DeepCache(every=3))):
        with accelerated(unet, *methods, auto=False) as accelerator:
            run = sample(unet, accelerator)
        told.append((account(accelerator)["layer_calls"], account(accelerator)["tokens_run"], run.latents))
    whole = accelerator.report().as_dict()
    assert told[0][:2] == told[1][:2] and torch.equal(told[0][2], told[1][2])
    # Steps 4 to 9 are before one that may be shallow; a line takes two whole calls first.
    assert whole["calls_measured"] == 6 and whole["calls_served"] == whole["stages_served"] == 0
    assert guided.codes(account(accelerator, 2)) == ["forecast_decides"]
    assert {reason.get("code") for reason in account(accelerator, 1)["reasons"]} == {"too_far_off"}


def test_where_nothing_may_be_shallow_nothing_is_measured():
    unet, ways = models.diffusers_unet(), (Forecast(tolerance=1000.0, largest_gap=1, last=1), DeepCache(every=3))
    with accelerated(unet, Forecast(every=2), DeepCache(every=2)) as accelerator:
        sample(unet, accelerator)
    assert accelerator.report().as_dict()["calls_measured"] == 0, "a fixed plan measures nothing"
    for methods, sampler in (((*ways,), "DPM++ SDE"), (((Forecast(tolerance=1000.0), DeepCache(every=1))), "Euler")):
        with accelerated(unet, *methods) as accelerator:
            sample(unet, accelerator, sampler)
        assert accelerator.report().as_dict()["calls_measured"] == 0
    with accelerated(unet, *ways) as accelerator:
        sample(unet, accelerator, whole_because="a mask is combined with every step")
    assert accelerator.report().as_dict()["calls_measured"] == 0 and courses(accelerator) == ([], [])


@both
def test_rows_that_nobody_described_are_decided_together(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, Forecast(tolerance=1000.0, largest_gap=1, last=1), DeepCache(every=2)) as accelerator:
        for step in range(STEPS):
            more = {"guidance": GUIDANCE, "sigma": LEVELS[step], "sampler": "Euler", "sigmas": LEVELS}
            accelerator.step(step, STEPS, None, **more)
            given = guided.given_to(rows_of(2))
            models.call(unet, models.SimpleNamespace(latents=given.latents, timestep=given.timestep, text=given.text))
    served, shallow = courses(accelerator)
    assert served and shallow and not set(served) & set(shallow)
    assert account(accelerator, 1)["rows_shallow"] == 4 * len(shallow)


def test_settings_without_effect_are_told():
    for more, told in (({}, []), ({"warm_up": 0.5}, ["no_effect"]), ({"tolerance": 0.1}, ["no_effect"])):
        unet = models.ldm_unet()
        with accelerated(unet, Forecast(tolerance=0.6, last=1), DeepCache(every=3, **more)) as accelerator:
            sample(unet, accelerator)
        assert guided.codes(account(accelerator, 1)) == told and account(accelerator, 1)["shallow_steps"]


def test_beside_edits_and_controls_nothing_is_measured():
    """Maps of words are summed up in every call that an edit sees; residuals of a control would be asked for twice."""
    unet = models.diffusers_unet()
    ways = Forecast(tolerance=1000.0, largest_gap=1, last=1), DeepCache(every=3)
    edits = PromptToPrompt(edits=(ImageEdit(1, 0, (None,), self_replace=0.5),))
    with accelerated(unet, edits, *ways) as accelerator:
        sample(unet, accelerator, images=2)
    assert accelerator.report().as_dict()["calls_measured"] == 0
    mid = torch.zeros(2, unet.config.block_out_channels[-1], 4, 4)
    handle = unet.register_forward_pre_hook(
        lambda module, args, given: (args, given | {"mid_block_additional_residual": mid}), with_kwargs=True
    )
    with accelerated(unet, *ways) as accelerator:
        sample(unet, accelerator)
    handle.remove()
    assert accelerator.report().as_dict()["calls_measured"] == 0 and courses(accelerator)[1] == []
    assert guided.codes(account(accelerator, 1)) == ["in_whole: residuals"]


def test_the_preview_shows_both():
    """A typical picture: forecast steps between, shallow ones among the others."""
    ways = Forecast(level="fast"), DeepCache(every=3)
    kinds = [method.schedule_beside(ways, 25, 7.0, "Euler").kinds for method in ways]
    both_at_once = [step for step in range(25) if kinds[0][step] and kinds[1][step]]
    shallow = [step for step in range(25) if kinds[1][step]]
    assert not both_at_once and len(shallow) in (2, 3, 4) and min(shallow) >= 5 and max(shallow) <= 22
    assert ways[1].schedule_beside(ways, 25, 7.0, "UniPC").kinds != ways[1].schedule_beside(ways, 25, 7.0, "Heun").kinds
    assert ways[1].schedule_beside(ways, 25, 7.0, "Heun") == ways[1].schedule(25, 7.0, "Heun")
    fixed = (Forecast(every=2), ways[1])
    assert ways[1].schedule_beside(fixed, 25, 7.0, "Euler") == ways[1].schedule(25, 7.0, "Euler")


def test_beside_the_gate_and_left_out_guidance():
    """Rows that are not run are not in the second run either; the gate's caches serve both runs."""
    unet = models.ldm_unet()
    ways = Forecast(tolerance=1.5, largest_gap=1, last=1), DeepCache(every=3)
    for other in (TGate(gate=0.3), GuidanceSkip(when="after", after=0.3), GuidanceSkip(when="after", after=0.3, reuse=True)):
        with accelerated(unet, other, *ways) as accelerator:
            run = sample(unet, accelerator)
        whole = accelerator.report().as_dict()
        assert run.latents.isfinite().all() and not any(method["failed"] for method in whole["methods"])
        assert whole["calls_measured"] > 0 and whole["rows_run"] < whole["rows"]


@both
def test_off_is_exact_and_an_interrupted_second_run_leaves_nothing(kind, monkeypatch):
    unet = models.UNETS[kind]()
    before = sample(unet, accelerator := accelerated(unet, Forecast(every=1))).latents
    accelerator.remove()
    ways = Forecast(tolerance=0.6, largest_gap=1, last=1), DeepCache(every=3)
    deep = [module for module in unet.modules() if type(module).__name__ in ("ResBlock", "ResnetBlock2D")]
    with accelerated(unet, *ways) as accelerator:
        monkeypatch.setattr("lib_accel.engine.second_run.replace", _breaks)
        monkeypatch.delenv("ACCEL_STRICT", raising=False)
        monkeypatch.setenv("ACCEL_STRICT", "0")
        run = sample(unet, accelerator)
    monkeypatch.undo()
    assert account(accelerator, 1)["failed"] and run.latents.isfinite().all() and courses(accelerator)[1] == []
    assert not any("forward" in module.__dict__ or module._forward_pre_hooks for module in deep)
    with accelerated(unet, Forecast(every=1)) as accelerator:
        assert torch.equal(sample(unet, accelerator).latents, before)


def _breaks(*given, **more):
    raise RuntimeError("no second run")


def _joined_for(unet, role):
    """A ControlNet adds to one half of guidance alone. Returns how often the middle ran."""
    text, mid, ran = guided.given_to([Row(role)]).text, torch.zeros(1, unet.config.block_out_channels[-1], 4, 4), []
    block = unet.mid_block
    whole = block.forward
    block.forward = lambda *args, **given: ran.append(1) or whole(*args, **given)
    unet.register_forward_pre_hook(
        lambda module, args, given: (args, given | {"mid_block_additional_residual": mid}) if torch.equal(args[2], text) else None,
        with_kwargs=True,
    )
    return ran


@pytest.mark.parametrize("role", ["cond", "uncond"])
def test_half_of_a_picture_tells_nothing_of_the_whole(role):
    """Prompt and negative prompt come apart, and one of them can never be shallow."""
    unet = models.diffusers_unet()
    _joined_for(unet, role)
    with accelerated(unet, Forecast(tolerance=1000.0, largest_gap=1, last=1), DeepCache(every=3)) as accelerator:
        sample(unet, accelerator, apart=True)
    assert courses(accelerator) == ([5, 7, 9], []) and account(accelerator, 1)["rows_shallow"] == 0


def test_a_picture_of_which_a_half_could_not_be_shallow_runs_in_whole_from_there():
    unet = models.diffusers_unet()
    _joined_for(unet, "uncond")
    with accelerated(unet, DeepCache(every=3)) as accelerator:
        sample(unet, accelerator, apart=True)
    assert account(accelerator)["rows_shallow"] == 1, "more than the call that came before it was known"


def test_outside_the_window_of_forecasts_steps_may_be_shallow():
    unet, window = models.ldm_unet(), (0.0, 0.5)
    with accelerated(unet, Forecast(tolerance=1000.0, largest_gap=1, last=1, window=window), DeepCache(every=3)) as accelerator:
        sample(unet, accelerator)
    served, shallow = courses(accelerator)
    assert served == [5] and shallow == [6, 7, 9, 10]
    ways = Forecast(level="fast", window=window), DeepCache(every=3)
    assert any(ways[1].schedule_beside(ways, 25, 7.0, "Euler").kinds[13:]), "as previews say"


def test_why_no_step_was_shallow():
    for more, sigmas, told in (
        ({"apart": True}, LEVELS, ["forecast_decides"]),
        ({}, LEVELS[-6:], ["no_step_between"]),
    ):
        unet = models.ldm_unet()
        with accelerated(unet, Forecast(tolerance=1e-9, last=1), DeepCache(every=3)) as accelerator:
            sample(unet, accelerator, sigmas=sigmas, **more)
        assert guided.codes(account(accelerator, 1)) == told
    with accelerated(unet, DeepCache(every=3, tolerance=1e-6)) as accelerator:
        sample(unet, accelerator, apart=True)
    assert guided.codes(account(accelerator)) == ["kept_too_far_off"]


def test_features_are_expected_to_err_along_sigma_whatever_is_predicted():
    """A line through two points misses a parabola by the product of the distances."""
    sigmas, sampler = (4.0, 3.0, 2.0, 1.5, 1.0, 0.5, 0.0), SAMPLERS["Euler"]
    for kind in ("epsilon", "flow"):
        noises = [Noise(kind, sigma) for sigma in sigmas]
        control = ErrorControl(sampler, sigmas, Control(1.0, 1), 1, noises, shallow_order=1)
        for step, error in enumerate((None, None, 2.0)):
            control.ran(step, None, error)
        missed = control.expected_shallow(3) / (noises[3].level * sampler.gain(sigmas, 3))
        assert missed == pytest.approx((1.5 - 2.0) * (1.5 - 3.0))


def test_second_runs_are_counted_as_shallow_ones_where_no_step_was_shallow():
    unet = models.ldm_unet()
    with accelerated(unet, Forecast(tolerance=1e-9, last=1), DeepCache(every=3)) as accelerator:
        sample(unet, accelerator)
    report, given = accelerator.report(), {"auto": False, "forecast.on": True, "deepcache.on": True, "deepcache.every": 3}
    settings = resolve({"enabled": True, "preset": "Custom"} | given, "sd1")
    (shown,) = ran_pass(report.as_dict(), report.rows, settings, "txt2img", "sd1", (512, 512), "Euler")
    # 6 of 12 steps again, of which the shallow stages are less than a tenth.
    assert 1.01 < shown.work / shown.plain < 1.05


def test_a_call_from_another_thread_during_a_second_run_runs_plain(monkeypatch):
    unet, found = models.ldm_unet(), []
    ways, given = (Forecast(tolerance=0.6, largest_gap=1, last=1), DeepCache(every=3)), guided.given_to(rows_of(1))
    plain = models.call(unet, given)
    with accelerated(unet, *ways) as accelerator:
        before, calls = sample(unet, accelerator), accelerator.report().as_dict()["unet_calls"]
    run, state = SecondRuns._run, {"again": False}

    def second(*args):
        state["again"] = True
        return run(*args)

    def calls_too(*args):
        if state.pop("again", False):
            other = threading.Thread(target=lambda: found.append(models.call(unet, given)))
            other.start()
            other.join()

    monkeypatch.setattr(SecondRuns, "_run", second)
    unet.input_blocks[0].register_forward_hook(calls_too)
    with accelerated(unet, *ways) as accelerator:
        after = sample(unet, accelerator)
    whole = accelerator.report().as_dict()
    assert found and all(torch.equal(one, plain) for one in found) and torch.equal(after.latents, before.latents)
    assert whole["unet_calls"] == calls and guided.codes(whole) == ["another_thread"]
