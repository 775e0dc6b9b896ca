"""The table of samplers, over every name and every schedule that the WebUI lists, and every scheduler of diffusers."""

import inspect
import json
import math
from pathlib import Path

import pytest
import torch

from lib_accel.core import sampler_gains as gains
from lib_accel.core.forecasting import LEVELS
from lib_accel.core.samplers import SAMPLERS, sampler_named
from lib_accel.core.scheduler_classes import CLASSES, sampler_of_class

WEBUI = json.loads((Path(__file__).parents[1] / "data/samplers/webui.json").read_text(encoding="utf-8"))
CALLS = json.loads((Path(__file__).parents[1] / "data/samplers/model_calls.json").read_text(encoding="utf-8"))
SCHEDULES = [(name, int(steps)) for name, lists in WEBUI["schedules"].items() for steps in lists]
# What the WebUI lists, and of it what is forecast.
FORECAST = {"Euler", "DDIM", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "UniPC", "LMS"}
# The Forge family lists more.
ALL_FORECAST = sorted(name for name, sampler in SAMPLERS.items() if sampler.forecasting)
NOISY = {"Euler a", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE", "DPM++ SDE", "DPM++ 2S a", "DPM2 a", "Restart", "LCM"}
MULTISTEP = {"DPM++ 2M", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE", "LMS", "PLMS", "UniPC"}


@pytest.mark.parametrize("name", WEBUI["samplers"])
def test_every_sampler_of_the_webui_is_classified(name):
    sampler = sampler_named(name)
    assert sampler.name == name
    assert (sampler.evaluations == 2) == WEBUI["samplers"][name]
    assert sampler.adds_noise == (name in NOISY)
    assert sampler.multistep == (name in MULTISTEP)
    assert sampler.free_steps == (name in {"DPM fast", "DPM adaptive"})
    assert sampler.distilled == (name == "LCM")
    assert (sampler.forecasting is not None) == (name in FORECAST)
    assert (sampler.off is None) == (name in FORECAST)


@pytest.mark.parametrize("schedule", ["Automatic", *WEBUI["schedules"]])
@pytest.mark.parametrize("name", WEBUI["samplers"])
def test_with_the_name_of_every_schedule_behind_it(name, schedule):
    assert sampler_named(f"{name} {schedule}") is sampler_named(name)


@pytest.mark.parametrize(("schedule", "steps"), SCHEDULES)
@pytest.mark.parametrize("name", ALL_FORECAST)
def test_every_sampler_on_every_schedule(name, schedule, steps):
    """Gains are numbers above 0 at every step, and at the end of schedules that make much of an error more calls run."""
    sampler, sigmas = SAMPLERS[name], WEBUI["schedules"][schedule][str(steps)]
    calls = len(sigmas) - 1
    assert all(0 < sampler.gain(sigmas, j) < 100 for j in range(calls))
    rules = sampler.forecasting
    even = schedule in ("Karras", "Exponential", "Polyexponential")
    steep = 0 if even else 4 if name in ("DPM++ 2M", "Res Multistep") else 3
    expected = {"Euler": 2, "DDIM": 2, "Euler a": 1, "DPM++ 2M SDE": 1, "ER SDE": 1}.get(name, steep)
    assert rules.last_of(sigmas) == expected
    assert 5 <= rules.first(calls) < calls - expected


def test_what_is_forecast():
    assert set(ALL_FORECAST) == FORECAST | {"Res Multistep", "ER SDE"}


@pytest.mark.parametrize("name", ["UniPC Trailing", "", "euler b", "res_multistep", None, 7])
def test_an_unknown_sampler_is_none(name):
    assert sampler_named(name) is None


def test_names_are_read_whatever_their_case():
    assert sampler_named("dpm++ 2m KARRAS") is SAMPLERS["DPM++ 2M"]


@pytest.mark.parametrize("name", ALL_FORECAST)
def test_levels_go_from_careful_to_fast(name):
    rules = SAMPLERS[name].forecasting
    assert tuple(rules.levels) == LEVELS
    freedom = [(level.tolerance, level.largest_gap) for level in rules.levels.values()]
    assert freedom == sorted(freedom) and len(set(freedom)) >= 3


def test_a_fixed_plan_is_for_samplers_of_the_first_order():
    allowed = {name for name, sampler in SAMPLERS.items() if sampler.forecasting and sampler.forecasting.fixed}
    assert allowed == {"Euler", "DDIM", "Euler a"}
    assert all(SAMPLERS[name].order == 1 and not SAMPLERS[name].multistep for name in allowed)


def test_a_warm_up_is_five_steps_at_least():
    rules = SAMPLERS["Euler"].forecasting
    assert [rules.first(steps) for steps in (4, 10, 25, 26, 50)] == [5, 5, 5, 6, 10]
    assert SAMPLERS["DPM++ 2M"].forecasting.first(25) == 6
    assert rules.first(50, part=0.5) == 25


def test_noise_that_is_drawn_anew_decides_the_kind():
    """DDIM with eta and Euler a without it are each other's kind."""
    noisy, calm = SAMPLERS["DDIM"].with_eta(1.0), SAMPLERS["Euler a"].with_eta(0.0)
    assert noisy.adds_noise and noisy.forecasting is SAMPLERS["Euler a"].forecasting
    assert not calm.adds_noise and calm.forecasting is SAMPLERS["Euler"].forecasting
    assert SAMPLERS["Euler"].with_eta(1.0) is SAMPLERS["Euler"]
    assert SAMPLERS["Euler a"].with_eta(0.5).gain([2.0, 1.0, 0.0], 0) < SAMPLERS["Euler a"].gain([2.0, 1.0, 0.0], 0)


# -- diffusers -----------------------------------------------------------------------------------------------------------------

schedulers = pytest.importorskip("diffusers.schedulers")
ALL = sorted(name for name, found in vars(schedulers).items() if inspect.isclass(found) and name.endswith("Scheduler"))


@pytest.mark.parametrize("name", sorted({*ALL, *(n for n in dir(schedulers) if n.endswith("Scheduler"))}))
def test_every_scheduler_of_diffusers(name):
    """By its default configuration; classes that are not in the table are unknown."""
    made = getattr(schedulers, name)
    try:
        config = dict(made().config)
    except Exception:  # Optional packages, or arguments without defaults.
        config = {}
    sampler = sampler_of_class(name, config)
    assert (sampler is None) == (name not in CLASSES)
    if sampler is not None and sampler.forecasting is not None:
        assert CLASSES[name] in FORECAST
        # A scheduler with two evaluations a step says so.
        assert getattr(made, "order", 1) == sampler.evaluations == 1


@pytest.mark.parametrize(
    ("config", "name", "forecast"),
    [
        ({}, "DPM++ 2M", True),
        ({"use_karras_sigmas": True}, "DPM++ 2M", True),
        ({"algorithm_type": "sde-dpmsolver++"}, "DPM++ 2M SDE", True),
        ({"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}, "DPM++ 2M SDE Heun", False),
        ({"algorithm_type": "sde-dpmsolver++", "solver_order": 3}, "DPM++ 3M SDE", False),
        ({"algorithm_type": "sde-dpmsolver++", "solver_order": 1}, "sde-dpmsolver++ of order 1", False),
        ({"solver_order": 1}, "DDIM", True),
        ({"solver_order": 3}, "DPM++ 3M", False),
        ({"solver_type": "heun"}, "DPM++ 2M Heun", False),
        ({"algorithm_type": "dpmsolver"}, "DPM", False),
        ({"algorithm_type": "deis"}, "deis of order 2", False),
        ({"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, "DPM++ 2M", True),
    ],
)
def test_dpm_solvers(config, name, forecast):
    for held in (config, type("Config", (), config)()):
        sampler = sampler_of_class("DPMSolverMultistepScheduler", held)
        assert sampler.name == name and (sampler.forecasting is not None) == forecast
        assert sampler.adds_noise == ("SDE" in name or "sde" in name)


@pytest.mark.parametrize(
    ("name", "config", "known_as"),
    [
        ("PNDMScheduler", {"skip_prk_steps": True}, "PLMS"),
        ("PNDMScheduler", {}, "PNDM with Runge-Kutta steps"),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, "Euler on flow matching that adds noise"),
    ],
)
def test_other_configurations(name, config, known_as):
    sampler = sampler_of_class(name, config)
    assert sampler.name == known_as and sampler.forecasting is None and known_as in sampler.off


# -- gains ---------------------------------------------------------------------------------------------------------------------


def karras(steps=25):
    return WEBUI["schedules"]["Karras"][str(steps)]


def run_2m(sigmas, pictures, eta=0.0):
    """The end of DPM++ 2M (the SDE without its noise) from 0, in float64, given what every call says the picture is."""
    x, old = torch.zeros((), dtype=torch.float64), None
    for j, picture in enumerate(pictures):
        if sigmas[j + 1] == 0:
            x = picture
        else:
            h = math.log(sigmas[j] / sigmas[j + 1])
            part = 1 - math.exp(-(1 + eta) * h)
            x = (1 - part) * x + part * picture
            if old is not None:
                r = math.log(sigmas[j - 1] / sigmas[j]) / h
                x = x + part / (2 * r) * (picture - old)
        old = picture
    return x


def test_the_gain_of_2m_bounds_what_an_error_does():
    """The two terms of opposite sign are added in size: the sampler's next step may not see the error the same way."""
    sigmas = karras()
    for j in (8, 15, 22, 24):
        pictures = [torch.zeros((), dtype=torch.float64)] * 25
        pictures[j] = torch.ones((), dtype=torch.float64)
        alone = abs(run_2m(sigmas[: j + 2], pictures[: j + 1]).item())
        assert alone <= gains.dpmpp_2m(sigmas, j) * (1 + 1e-12)
    h = [math.log(sigmas[j] / sigmas[j + 1]) for j in range(24)]
    expected = (1 - sigmas[9] / sigmas[8]) * (1 + h[8] / (2 * h[7])) + (1 - sigmas[10] / sigmas[9]) * h[9] / (2 * h[8])
    assert gains.dpmpp_2m(sigmas, 8) == pytest.approx(expected)
    assert gains.dpmpp_2m(sigmas, 24) == 1.0


def test_the_gain_of_euler():
    sigmas = karras()
    assert gains.euler(sigmas, 10) == 1 - sigmas[11] / sigmas[10]
    assert gains.euler(sigmas, 24) == 1.0


def test_an_ancestral_step_goes_down_further():
    """As much noise is added as was taken away too much."""
    down = gains.downward(2.0, 1.0, 1.0)
    assert down == pytest.approx(math.sqrt(1 - 0.75))
    assert gains.euler([2.0, 1.0, 0.0], 0, eta=1.0) == pytest.approx(1 - down / 2)
    assert gains.downward(2.0, 1.0, 0.0) == 1.0 and gains.downward(2.0, 0.0, 1.0) == 0.0


def test_the_coefficients_of_lms_integrate_cubics_exactly():
    """Against numerical integration, and they add up to the step."""
    sigmas = karras()
    j = 12
    areas = [gains._lagrange_area(sigmas, j, 4, k) for k in range(4)]
    assert sum(areas) == pytest.approx(sigmas[j + 1] - sigmas[j])
    points = torch.linspace(sigmas[j], sigmas[j + 1], 20001, dtype=torch.float64)
    value = torch.ones_like(points)
    for other in (0, 2, 3):
        value = value * (points - sigmas[j - other]) / (sigmas[j - 1] - sigmas[j - other])
    assert areas[1] == pytest.approx(torch.trapezoid(value, points).item(), rel=1e-6)
    assert gains.lms(sigmas, j) == pytest.approx(sum(map(abs, areas)) / sigmas[j])


FORGE = json.loads((Path(__file__).parents[1] / "data/samplers/forge.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("schedule", sorted(FORGE["pictures"]))
@pytest.mark.parametrize("name", ["Res Multistep", "ER SDE"])
def test_weights_are_those_of_the_forge_familys_samplers(name, schedule):
    """Steps made of them go through the latents that the host's own functions were seen to go through."""
    kind, steps = schedule.rsplit(" ", 1)
    sigmas, pictures = WEBUI["schedules"][kind][steps], FORGE["pictures"][schedule]
    weights = gains.res_weights if name == "Res Multistep" else gains.er_sde_weights
    kept = (lambda sigma: sigma) if name == "Res Multistep" else gains.er_scale
    x = 1.0
    for j, seen in enumerate(FORGE[name][schedule]):
        assert x == pytest.approx(seen, abs=2e-6)
        if sigmas[j + 1] > 0:
            kept_part = kept(sigmas[j + 1]) / kept(sigmas[j])
            x = kept_part * x + sum(weight * pictures[j - back] for back, weight in enumerate(weights(sigmas, j)))


@pytest.mark.parametrize("name", ["Res Multistep", "ER SDE"])
def test_the_gain_of_the_forge_familys_samplers(name):
    """What a call weighs in its own step and in the next; the last step is its picture."""
    sigmas = karras()
    gain, weights = (gains.res_multistep, gains.res_weights) if name == "Res Multistep" else (gains.er_sde, gains.er_sde_weights)
    assert gain(sigmas, 8) == pytest.approx(abs(weights(sigmas, 8)[0]) + abs(weights(sigmas, 9)[1]))
    assert gain(sigmas, 23) == pytest.approx(abs(weights(sigmas, 23)[0]))
    assert gain(sigmas, 24) == 1.0


def test_even_schedules_are_not_steep():
    assert not gains.is_steep(karras()) and not gains.is_steep(karras(20))
    assert gains.is_steep(WEBUI["schedules"]["Uniform"]["25"]) and gains.is_steep(WEBUI["schedules"]["KL Optimal"]["25"])


def test_a_first_level_without_end_costs_no_numbers():
    """Zero terminal SNR: nothing can be said of the step from there, and later ones are as they are."""
    sigmas = [math.inf, *karras()[5:]]
    for gain in (gains.dpmpp_2m, gains.res_multistep, gains.er_sde):
        assert all(math.isfinite(gain(sigmas, j)) for j in range(1, len(sigmas) - 1))


def test_calls_of_the_samplers_that_run_twice():
    """What k-diffusion's functions were seen to call."""
    steps = CALLS["steps"]
    names = {
        "Euler": "sample_euler",
        "Heun": "sample_heun",
        "DPM2": "sample_dpm_2",
        "DPM++ SDE": "sample_dpmpp_sde",
        "DPM++ 2M": "sample_dpmpp_2m",
    }
    for name, function in names.items():
        twice = len(CALLS["model_call_sigmas"][function]) > steps
        assert (SAMPLERS[name].evaluations == 2) == twice
