"""Forecast and DeepCache in kinds of jobs of the host double: what each step ran, what is told, and what a live preview sees."""

import itertools

import guided
import pytest
from guided import rows_run
from serving import res_blocks_run
from stepping import last_report, methods_of

BARE = {"enabled": True, "preset": "Custom", "auto": False}
CONTROL = BARE | {"forecast.on": True, "forecast.tolerance": 1000, "forecast.largest_gap": 1, "forecast.last": 1}
DEEP = BARE | {"deepcache.on": True, "deepcache.warm_up": 0.3}
STEPS = 12


def drawn(host, accel, **fields):
    """(rows that each step really ran, ResBlocks that ran in it, the job) by what the U-Net's layers were given."""
    unet = host.shared.sd_model.model.diffusion_model
    rows, blocks, marks = rows_run(unet), res_blocks_run(unet), []
    host.callbacks.callbacks["cfg_denoiser"].insert(0, ("counting", lambda params: marks.append((len(rows), len(blocks)))))
    try:
        done = host.job(accel=accel, **({"steps": STEPS} | fields))
    finally:
        host.callbacks.callbacks["cfg_denoiser"].pop(0)
    ends = [*marks[1:], (len(rows), len(blocks))]
    steps = [(sum(rows[a:c]), d - b) for (a, b), (c, d) in zip(marks, ends)]
    return [step for step, _ in steps], [count for _, count in steps], done


def less(counts):
    """The steps in which fewer ran than at most."""
    return [step for step, count in enumerate(counts) if count < max(counts)]


@pytest.mark.parametrize("apart", [False, True])
def test_pictures_edited_by_instruction(host, apart):
    """Three kinds of rows, combined by two scales."""
    host.sd_models.switch_to(host.model(conditioning_key="edit"))
    host.shared.opts.data["batch_cond_uncond"] = not apart
    rows, _, _ = drawn(host, CONTROL, tab="img2img", denoising_strength=1.0, image_cfg_scale=1.5)
    assert set(rows) == {0, 3} and methods_of(host)[0]["served"][0]["steps"] == less(rows)
    _, blocks, _ = drawn(host, DEEP, tab="img2img", denoising_strength=1.0, image_cfg_scale=1.5)
    assert methods_of(host)[0]["shallow_in"][0]["steps"] == less(blocks) != []


@pytest.mark.parametrize("apart", [False, True])
def test_a_negative_prompt_that_the_host_skips_in_every_second_step(host, apart):
    """A step is forecast with all of its rows or with none."""
    host.shared.opts.data["batch_cond_uncond"] = not apart
    rows, _, _ = drawn(host, CONTROL, s_min_uncond=99.0, steps=20)
    assert set(rows) == {0, 1, 2} and all(count in (0, 1 if step % 2 else 2) for step, count in enumerate(rows))
    assert methods_of(host)[0]["served"][0]["steps"] == [step for step, count in enumerate(rows) if not count]


def test_pictures_that_need_different_steps_are_told_each(host):
    """The batch runs smaller where some are forecast; PNG info and the strip tell them apart."""
    accel, found = CONTROL | {"forecast.largest_gap": 3}, None
    for tolerance in (0.3, 1.0, 3.0, 10.0, 30.0):
        rows, _, done = drawn(host, accel | {"forecast.tolerance": tolerance}, batch_size=4, steps=16)
        served = {one["picture"]: one["steps"] for one in methods_of(host)[0]["served"]}
        assert rows == [2 * sum(step not in served.get(picture, []) for picture in range(4)) for step in range(16)]
        if len({len(steps) for steps in served.values()}) > 1:
            found = sorted(map(len, served.values()))
            break
    assert found, "no tolerance tells these pictures apart"
    # In PNG info commas divide the keys.
    told = f"{found[0]} to {found[-1]} of 16 steps forecast, by picture"
    assert told in done.comments and all(told.replace(",", ";") in text for text in done.infotexts)
    from lib_accel.webui.jobs.session import SESSION

    shown = [[step for step, kinds in enumerate(one.steps) if kinds] for one in SESSION.ran["txt2img"]]
    assert sorted(shown) == sorted([list(steps) for steps in {tuple(served.get(picture, ())) for picture in range(4)}])


@pytest.mark.parametrize("apart", [False, True])
def test_three_ways_of_a_step_are_told_and_shown_for_each_picture(host, apart):
    """Forecast, shallow or whole, in one batch: the line, the account and the strip agree with what the layers were given."""
    host.shared.opts.data["batch_cond_uncond"] = not apart
    accel = CONTROL | {"forecast.tolerance": 3.0, "forecast.largest_gap": 2, "deepcache.on": True, "deepcache.every": 3}
    rows, _, done = drawn(host, accel, batch_size=3, steps=24)
    forecast, deep = methods_of(host)
    served, shallow = (
        {one["picture"]: one["steps"] for one in method[name]} for method, name in ((forecast, "served"), (deep, "shallow_in"))
    )
    assert sorted(served) == sorted(shallow) == [0, 1, 2] and all(map(len, (*served.values(), *shallow.values())))
    assert not any(set(served[picture]) & set(shallow[picture]) for picture in served)
    report = last_report(host)["passes"][0]["report"]
    calls = 2 if apart else 1
    assert report["calls_measured"] > 0 and report["rows"] == 3 * 2 * 24
    again = sum(rows) - report["rows_run"]
    assert report["rows_run"] == report["rows"] - 2 * sum(map(len, served.values())) and 0 < again <= report["calls_measured"] * 6 / calls
    assert "deep stages reused for" in done.comments and "steps forecast" in done.comments
    from lib_accel.webui.jobs.session import SESSION

    kinds = {tuple(one.steps) for one in SESSION.ran["txt2img"]}
    expected = {
        tuple(("forecast",) if step in served[n] else ("shallow",) if step in shallow[n] else () for step in range(24)) for n in range(3)
    }
    assert kinds == expected


def test_live_previews_go_on_in_steps_that_are_forecast(host):
    """The host shows what its guidance made of every step, whoever predicted it."""
    seen = []
    host.callbacks.on_cfg_after_cfg(lambda params: seen.append(host.shared.state.current_latent.clone()))
    rows, _, _ = drawn(host, CONTROL)
    assert 0 in rows and len(seen) == STEPS and all(one.isfinite().all() for one in seen)
    assert all((one != other).any() for one, other in itertools.pairwise(seen))


@pytest.mark.parametrize("how", ["interrupted", "skipped"])
@pytest.mark.parametrize("accel", [CONTROL, DEEP], ids=["forecast", "deepcache"])
def test_a_stopped_job_tells_the_steps_up_to_there(host, accel, how):
    calls = []
    host.callbacks.on_cfg_denoiser(lambda params: calls.append(params) or (len(calls) == 9 and setattr(host.shared.state, how, True)))
    rows, blocks, done = drawn(host, accel, steps=20)
    (method,) = methods_of(host)
    told = [step for one in method["served"] or method["shallow_in"] for step in one["steps"]]
    assert told == less(blocks) != [] and len(rows) == 9 and "stopped after 9 steps" in done.comments
    setattr(host.shared.state, how, False)


@pytest.mark.parametrize("prompt", ["a <lora:style:0.2@0,1@0.5>", "a <lora:style:1:lbw=MIDD:start=5>"])
def test_deep_stages_are_not_served_while_a_lora_changes(host, prompt):
    _, blocks, _ = drawn(host, DEEP, prompt=prompt)
    assert not less(blocks) and guided.codes(methods_of(host)[0]) == ["in_whole: lora_changes"]


def test_deep_stages_are_not_served_over_the_end_of_a_unit_of_controlnet(host):
    class Unit:
        start_guidance_percent, stop_guidance_percent = 0.0, 0.45

    host.runners["txt2img"].alwayson_scripts[0].latest_network = type("Network", (), {"control_params": [Unit()]})()
    _, blocks, _ = drawn(host, DEEP | {"deepcache.every": 4}, steps=16)
    # Of four steps one is whole: 4, 8; here one more, the first without the unit. The host counts finished steps.
    assert less(blocks) == [5, 6, 7, 10, 11, 12, 14]
    assert last_report(host)["passes"][0]["report"]["methods"][0]["shallow_steps"] == len(less(blocks))
