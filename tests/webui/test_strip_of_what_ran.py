"""The strip after a job shows the steps that were served, not those that were planned."""

import pytest
from stepping import last_report

BARE = {"enabled": True, "preset": "Custom", "auto": False}
FORECAST = BARE | {"forecast.on": True, "forecast.tolerance": 1000, "forecast.largest_gap": 1, "forecast.last": 1}
DEEP = BARE | {"deepcache.on": True, "deepcache.warm_up": 0.3}


def shown(host):
    """For every strip of the last pictures: the steps at which anything was at work."""
    from lib_accel.webui.jobs.session import SESSION

    return [[step for step, kinds in enumerate(one.steps) if kinds] for one in SESSION.ran["txt2img"]]


def told(host, of):
    """(the first step, the steps served) of every part of the last job, by its account."""
    reports = [entry["report"] for entry in last_report(host)["passes"]]
    found = [(report, [step for one in report["methods"][0][of] for step in one["steps"]]) for report in reports]
    return [(report["last_step"] + 1 - report["steps"], steps) for report, steps in found]


@pytest.mark.parametrize(("accel", "of"), [(FORECAST, "served"), (DEEP, "shallow_in")], ids=["forecast", "deepcache"])
@pytest.mark.parametrize("same_unet", [False, True])
def test_both_parts_of_a_pass_with_a_refiner(host, accel, of, same_unet):
    refiner = host.model(seed=5, name="refiner")
    if same_unet:
        refiner.model.diffusion_model = host.shared.sd_model.model.diffusion_model
    host.job(accel=accel, refiner_model=refiner, refiner_switch_at=0.5, steps=24)
    parts = told(host, of)
    assert shown(host) == [[step - begin for step in steps] for begin, steps in parts]
    assert {step >= 12 for _, steps in parts for step in steps} == {True, False}


def test_prompts_that_change_and_jobs_that_are_stopped(host):
    host.job(accel=DEEP, prompt="a [b:c:0.5]", steps=12)
    assert shown(host) == [[8, 10]] and told(host, "shallow_in") == [(0, [8, 10])]
    assert last_report(host)["passes"][0]["report"]["methods"][0]["shallow_steps"] == 2
    calls = []
    host.callbacks.on_cfg_denoiser(lambda params: calls.append(params) or setattr(host.shared.state, "interrupted", len(calls) == 9))
    done = host.job(accel=DEEP, steps=12)
    assert shown(host) == [[4, 6, 8]] and "stopped after 9 steps" in done.comments and "reused for 3 of 9 steps" in done.comments


def test_the_time_is_that_of_the_steps_that_were_shallow(host):
    """A tolerance that lets few steps be shallow saves less than the plan does."""
    gains = []
    for tolerance in (0, 1e-9):
        host.job(accel=DEEP | {"deepcache.tolerance": tolerance}, steps=12, width=512, height=512)
        gains.append(last_report(host)["times_as_fast"])
    assert gains[0] > gains[1] == pytest.approx(1)
