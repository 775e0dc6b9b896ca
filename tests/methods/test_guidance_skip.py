"""Guidance skipping: when it skips, and what a host's own formula makes of what it fills in."""

import math

import guided
import models
import pytest
import torch
import torch.nn.functional as F
from guided import COND, PAIR, UNCOND, account

from lib_accel import Forecast, GuidanceSkip, Row, SettingError, TGate, accelerated
from lib_accel.core.noise import Noise
from lib_accel.core.noise_view import NoiseView
from lib_accel.core.rows import Layout
from lib_accel.core.samplers import sampler_named
from lib_accel.core.schedule import Step
from lib_accel.engine.contract import Moment

both = pytest.mark.parametrize("kind", models.BOTH)
TWO = (Row("cond", 0), Row("cond", 1), Row("uncond", 0), Row("uncond", 1))


def cosines(predictions, image=0):
    return float(F.cosine_similarity(*(predictions[role, image, 0].flatten() for role in ("cond", "uncond")), dim=0))


# -- when ----------------------------------------------------------------------------------------------------------------------


@both
def test_once_the_predictions_are_alike(kind):
    """From the step after the first whose cosine reaches the threshold, for good."""
    unet = models.UNETS[kind]()
    alike = [cosines(step) for step in guided.passes(unet, guided.Silent(), 6)]
    ran = guided.rows_run(unet)
    for threshold in (min(alike), sorted(alike)[3], 1.0):
        first = next((i + 1 for i, value in enumerate(alike) if value >= threshold - 1e-6), 6)
        ran.clear()
        with accelerated(unet, GuidanceSkip(threshold=max(0.0, threshold - 1e-5) if threshold < 1 else 1.0)) as accelerator:
            guided.passes(unet, accelerator, 6)
            assert ran == [2] * first + [1] * (6 - first)
            guided.passes(unet, accelerator, 6)
            assert ran == 2 * ([2] * first + [1] * (6 - first))


@both
@pytest.mark.parametrize("calls", [(TWO,), (TWO[:2], TWO[2:]), (TWO[2:], TWO[:2]), (TWO[::2], TWO[1::2])])
def test_a_batch_switches_when_every_image_has_passed(kind, calls):
    """In one call or several. Where they are several only a host that asks can drop rows."""
    unet = models.UNETS[kind]()
    steps = guided.passes(unet, guided.Silent(), 6, [TWO])
    alike = [[cosines(step, image) for step in steps] for image in (0, 1)]
    threshold = sorted(alike[0] + alike[1])[7] - 1e-5
    passed = [next((i for i, value in enumerate(values) if value >= threshold), 99) for values in alike]
    first = min(max(passed) + 1, 6)
    with accelerated(unet, GuidanceSkip(threshold=threshold)) as accelerator:
        plans = []
        for index in range(6):
            accelerator.step(index, 6, [row for rows in calls for row in rows])
            plans.append(accelerator.row_plan() is not None)
            guided.step(unet, guided.Silent(), index, 6, calls)
    assert plans == [False] * first + [True] * (6 - first)


@both
def test_from_a_fraction_on_and_again_every_few_steps(kind):
    unet = models.UNETS[kind]()
    ran = guided.rows_run(unet)
    for settings, wanted in (
        ({"after": 0.3}, [2] * 3 + [1] * 7),
        ({"after": 1}, [2] * 10),
        ({"after": 0.3, "every": 3}, [2, 2, 2, 1, 1, 2, 1, 1, 2, 1]),
        ({"after": 0.3, "every": 1}, [2] * 10),
        ({"after": 0.3, "every": 4, "reuse": True}, [2, 2, 2, 1, 1, 1, 2, 1, 1, 1]),
    ):
        ran.clear()
        with accelerated(unet, GuidanceSkip(when="after", **settings)) as accelerator:
            guided.passes(unet, accelerator, 10)
        assert ran == wanted, settings


@both
def test_outside_an_interval_of_noise(kind):
    unet = models.UNETS[kind]()
    ran = guided.rows_run(unet)
    with accelerated(unet, GuidanceSkip(when="outside", sigma_low=0.3, sigma_high=5)) as accelerator:
        for index, sigma in enumerate((14, 5.1, 5, 1, 0.31, 0.3, 0.1, None)):
            guided.step(unet, accelerator, index, 9, sigma=sigma)
    assert ran == [1, 1, 2, 2, 2, 1, 1, 2]
    assert guided.codes(account(accelerator)) == ["guidance_kept: no_level"]


@both
def test_at_scale_one_nothing_is_lost(kind):
    """u + 1 * (c - u) = c: half the work for the whole pass, whatever the settings."""
    unet = models.UNETS[kind]()
    plain = guided.passes(unet, guided.Silent(), 3)
    ran = guided.rows_run(unet)
    for method in (GuidanceSkip(threshold=1), GuidanceSkip(when="after", after=1), GuidanceSkip(reuse=True)):
        ran.clear()
        with accelerated(unet, method) as accelerator:
            out = guided.passes(unet, accelerator, 3, guidance=1.0)
        assert ran == [1] * 3
        for one, other in zip(out, plain):
            torch.testing.assert_close(one[COND.key], other[COND.key], atol=2e-4, rtol=1e-3)
            assert torch.equal(one[UNCOND.key], one[COND.key])
        with accelerated(unet, method) as accelerator:
            accelerator.step(0, 3, TWO, guidance=1.0)
            assert accelerator.row_plan().keep == (0, 1)


def test_unknown_rows_stay_guided():
    unet = models.ldm_unet()
    ran = guided.rows_run(unet)
    with accelerated(unet, GuidanceSkip(when="after", after=0.1)) as accelerator:
        for index in range(3):
            accelerator.step(index, 3)
            models.call(unet)
    assert ran == [2] * 3
    assert guided.codes(account(accelerator)) == ["guidance_kept: rows_unknown"]


# -- what ----------------------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("scale", [1.5, 7.0])
@pytest.mark.parametrize("rows", [PAIR, TWO], ids=["one", "two"])
def test_the_last_direction_is_used_again(kind, scale, rows):
    """The host's own formula gives c + (w - 1) * decay^k * (c - u of the last guided step)."""
    unet = models.UNETS[kind]()
    with accelerated(unet, GuidanceSkip(when="after", after=0.4, reuse=True, decay=0.5)) as accelerator:
        steps = guided.passes(unet, accelerator, 5, [rows])
        assert accelerator.row_plan() is None  # The hooks alone can do that.
    for image in {row.image for row in rows}:
        cond, uncond = ("cond", image, 0), ("uncond", image, 0)
        direction = steps[1][cond] - steps[1][uncond]
        for since, step in enumerate(steps[2:], 1):
            guided_by_host = step[uncond] + scale * (step[cond] - step[uncond])
            wanted = step[cond] + (scale - 1) * 0.5**since * direction
            torch.testing.assert_close(guided_by_host, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("sampler", "order", "continued"),
    [("Euler", "by sampler", True), ("Euler a", "by sampler", False), ("Euler a", 1, True), ("Somebody's SDE", "by sampler", False)],
)
def test_a_direction_is_continued_along_the_noise_level(sampler, order, continued):
    """From the last two guided steps, where that is better, no further than they are apart; without fading."""
    unet, levels = models.ldm_unet(), (14.0, 9.0, 5.0, 2.0, 1.0, 0.0)
    with accelerated(unet, GuidanceSkip(when="after", after=0.4, reuse=True, order=order)) as accelerator:
        steps = guided.passes(unet, accelerator, 5, [PAIR], sampler=sampler, sigmas=levels)
    before, last = (steps[index][COND.key] - steps[index][UNCOND.key] for index in (0, 1))
    for index in (2, 3, 4):
        share = (levels[index] - levels[1]) / (levels[1] - levels[0]) if continued and index == 2 else 0.0
        kept = steps[index][COND.key] - steps[index][UNCOND.key]
        torch.testing.assert_close(kept, last + share * (last - before), atol=1e-4, rtol=1e-3)


def test_a_flow_models_pure_noise_has_no_direction_to_keep():
    """Its first noise is 1: nothing of a picture is there, and no direction of the noise can be told. The next step is guided, too."""
    shares = (1.0, 0.8, 0.6, 0.4, 0.2)
    levels = tuple(share / (1 - share) if share < 1 else math.inf for share in shares)
    runner = GuidanceSkip(when="outside", sigma_low=0.0, sigma_high=0.1, reuse=True).runner()
    kept = []
    for index, level in enumerate(levels):
        told = {"sampler": sampler_named("Euler"), "mixed": "flow"}
        step, noise = Step(index, 5, index / 5, "host", index == 0), Noise("flow", level, "flow")
        x = torch.zeros(2, 4, 4, 4)
        moment = Moment(
            step, Layout(PAIR), (1, index), 7.0, "flow", lambda noise=noise: noise, x, 0, None, False, 0, (*levels, 0.0), **told
        )
        runner.begin_step(moment), runner.begin_call(moment)
        prediction = torch.stack([torch.zeros(4, 4, 4), torch.ones(4, 4, 4)])
        if runner.drop_rows(moment) is None:
            runner.end_call(moment, prediction, (0, 1))
            kept.append(None)
        else:
            prediction[PAIR.index(UNCOND)] = prediction[PAIR.index(COND)]
            runner.fill_dropped(moment, prediction, (PAIR.index(UNCOND),))
            kept.append((prediction[PAIR.index(COND)] - prediction[PAIR.index(UNCOND)]).abs().mean().item())
    assert kept[:2] == [None, None] and all(one > 0.05 for one in kept[2:])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_cosine_and_direction_are_those_of_the_noise(prediction):
    """A pipeline whose U-Net predicts v: the direction is kept as one of noise, and comes back as one of v."""
    pipe = models.pipeline()
    pipe.scheduler = models.scheduler("DDIMScheduler", prediction_type=prediction)
    seen = []
    noises, originals = NoiseView(pipe), []

    def before(module, args, kwargs):
        originals.append((args[0].clone(), float(args[1])))

    with accelerated(pipe, GuidanceSkip(when="after", after=0.4, reuse=True, order=0)):
        pipe.unet.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
        pipe.unet.register_forward_hook(lambda module, args, out: seen.append((out[0] if isinstance(out, tuple) else out.sample).clone()))
        models.picture(pipe, 5)

    def direction(call):
        latents, timestep = originals[call]
        uncond, cond = noises.at(timestep).as_epsilon(seen[call], latents)
        return cond - uncond

    for call in (2, 3, 4):
        torch.testing.assert_close(direction(call), direction(1), atol=2e-3, rtol=1e-3)


def test_v_without_noise_levels_never_looks_alike():
    unet = models.ldm_unet()
    holder = models.latent_diffusion(unet)
    holder.parameterization = "v"
    ran = guided.rows_run(unet)
    with accelerated(holder, GuidanceSkip(threshold=0.0)) as accelerator:
        guided.passes(unet, accelerator, 3)
        assert ran == [2] * 3
        assert "guidance_kept: no_level_for_units" in guided.codes(account(accelerator))
        ran.clear()
        accelerator.new_pass()
        guided.passes(unet, accelerator, 3, sigma=1.0)
    assert len(ran) == 3


def test_noise_levels():
    table = torch.linspace(0.999, 0.005, 1000)

    class Model:
        alphas_cumprod, parameterization = table, "v"

    model = Model()
    view = NoiseView(model)
    for timestep in (0, 500, 999, 2000):
        square = float(table[min(timestep, 999)])
        assert math.isclose(view.at(timestep).sigma, math.sqrt((1 - square) / square), rel_tol=1e-4)
    assert view.at(500).sigma < view.at(500.5).sigma < view.at(501).sigma
    assert view.at(500, sigma=3.0) == Noise("v", 3.0)
    assert NoiseView(torch.nn.Identity()).at(10) == Noise("epsilon", None)
    del model
    assert view.at(500) == Noise("epsilon", None)


@pytest.mark.parametrize("kind", ["epsilon", "v", "sample"])
def test_units(kind):
    """From the same picture and noise every kind of prediction gives the same noise."""
    x0, epsilon = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = 1.7
    signal = 1 / math.sqrt(1 + sigma**2)
    x = signal * x0 + sigma * signal * epsilon
    predictions = {"epsilon": epsilon, "v": signal * epsilon - sigma * signal * x0, "sample": x0}
    noise = Noise(kind, sigma)
    torch.testing.assert_close(noise.as_epsilon(predictions[kind], x), epsilon, atol=1e-5, rtol=1e-5)
    moved = noise.as_epsilon(predictions[kind] + noise.per_derivative * 0.1, x)
    torch.testing.assert_close(moved, epsilon + 0.1, atol=1e-5, rtol=1e-5)
    if kind != "epsilon":
        assert Noise(kind).as_epsilon(epsilon, x) is None and Noise(kind).per_derivative is None


# -- together, and settings ----------------------------------------------------------------------------------------------------


@both
def test_together_with_a_gate_that_keeps_guidance(kind):
    unet = models.UNETS[kind]()
    ran = guided.rows_run(unet)
    with accelerated(unet, TGate(gate_step=2, drop_guidance=False), GuidanceSkip(when="after", after=0.6, reuse=True)) as accelerator:
        guided.passes(unet, accelerator)
    assert ran == [2, 2, 2, 1, 1]
    assert (account(accelerator, 0)["steps"], account(accelerator, 1)["evaluations_saved"]) == (3, 2)
    assert account(accelerator, 1)["kept_direction_steps"] == 2 and account(accelerator, 1)["unguided_steps"] == 0


@both
def test_steps_without_guidance_teach_nothing(kind):
    """Where a gate drops the rows that were to be looked at, both rows hold the same: no direction, and nothing is alike."""
    unet = models.UNETS[kind]()
    for order in (1, -1):
        methods = (GuidanceSkip(when="after", after=0.2, reuse=True, every=3), TGate(gate_step=4))[::order]
        with accelerated(unet, *methods) as accelerator:
            guided.passes(unet, accelerator, 10)
        told = [account(accelerator, index) for index in (0, 1)][::order]
        # Guided: 0, 1; looked up at 4 in vain, for the gate is before it.
        assert told[0]["kept_direction_steps"] == 2 and told[1]["unguided_steps"] == 6
    with accelerated(unet, TGate(gate_step=2), GuidanceSkip(threshold=0.9999999)) as accelerator:
        guided.passes(unet, accelerator, 5)
        assert account(accelerator, 1)["evaluations_saved"] == 0
        assert not accelerator._runners[1]._passed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        *[({"threshold": value}, ("GuidanceSkip.threshold", "a number from 0 to 1.")) for value in (-0.1, 1.1, math.nan, None)],
        *[({"after": value}, ("GuidanceSkip.after", "a number above 0 and up to 1.")) for value in (0, 2, math.nan)],
        ({"when": "never"}, ("GuidanceSkip.when is 'never'", "'similar', 'after', 'outside'")),
        ({"when": "outside", "sigma_low": 5, "sigma_high": 5}, ("GuidanceSkip.sigma_low is 5 and", "GuidanceSkip.sigma_high is 5;")),
        ({"sigma_low": -1}, ("GuidanceSkip.sigma_low is -1", "of 0 or more")),
        ({"decay": 1.5}, ("GuidanceSkip.decay is 1.5", "from 0 to 1")),
        ({"every": -1}, ("GuidanceSkip.every is -1", "from 0 to 1000")),
        ({"reuse": 1}, ("GuidanceSkip.reuse is 1", "True or False")),
    ],
)
def test_bad_settings_get_a_sentence(settings, words):
    with pytest.raises(SettingError) as error:
        GuidanceSkip(**settings)
    assert all(word in str(error.value) for word in words), error.value


# -- only where it beats fewer steps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "beside", "code", "unguided"),
    [
        ("EulerDiscreteScheduler", (), [], 4),
        ("EulerDiscreteScheduler", (Forecast(),), ["forecast_instead"], 0),
        ("EulerAncestralDiscreteScheduler", (), ["adds_noise"], 0),
        ("HeunDiscreteScheduler", (Forecast(),), [], 4),
        # Beside these levels both together were measured to be nearer than more forecasts.
        ("EulerDiscreteScheduler", (Forecast(level="fastest"),), ["forecast_instead"], 0),
        ("EulerDiscreteScheduler", (Forecast(level="draft"),), [], 4),
        ("EulerDiscreteScheduler", (Forecast(level="draft", every=2),), ["forecast_instead"], 0),
        ("EulerAncestralDiscreteScheduler", (Forecast(level="draft"),), [], 4),
        ("DPMSolverMultistepScheduler", (Forecast(level="fastest"),), [], 4),
        ("DPMSolverMultistepScheduler", (Forecast(level="fast", last=1),), ["forecast_instead"], 0),
    ],
)
def test_it_stands_aside_where_something_better_is_at_work(schedule, beside, code, unguided):
    """Also in the look ahead. Forecast does nothing with Heun, whose steps hold two calls."""
    pipe = models.pipeline(schedule=schedule)
    skip = GuidanceSkip(when="after", after=0.5, only_where_better=True)
    with accelerated(pipe, skip, *beside) as accelerator:
        models.picture(pipe, 8)
        told = account(accelerator)
    assert (guided.codes(told), told["unguided_steps"]) == (code, unguided)
    # What acted in its place is told; that it made room is not worth a word.
    assert ("GuidanceSkip" in str(accelerator.report())) is (code != ["forecast_instead"])
