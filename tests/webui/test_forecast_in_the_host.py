"""Forecast in the host double: what the host tells of its sampler, and which steps run."""

import sys

import guided
import pytest
import torch
from guided import rows_run
from harness import same
from stepping import last_report, methods_of

FORECAST = {"enabled": True, "preset": "Custom", "auto": False, "forecast.on": True}
PLAN = FORECAST | {"forecast.every": 2}
FREE = FORECAST | {"forecast.tolerance": 1000, "forecast.largest_gap": 1, "forecast.last": 1}
STEPS = 10


def rows_run_by_step(host, accel, **fields):
    """How many rows every step of a job really runs."""
    steps, unet = [], host.shared.sd_model.model.diffusion_model
    seen = rows_run(unet)
    host.callbacks.callbacks["cfg_denoiser"].insert(0, ("counting", lambda params: steps.append(len(seen))))
    try:
        done = host.job(accel=accel, **({"steps": STEPS} | fields))
    finally:
        host.callbacks.callbacks["cfg_denoiser"].pop(0)
    ends = [*steps[1:], len(seen)]
    return [sum(seen[begin:end]) for begin, end in zip(steps, ends)], done


def codes(host):
    return guided.codes(methods_of(host)[-1])


@pytest.mark.parametrize("sampler", ["Euler", "Euler a"])
def test_a_fixed_plan(host, sampler):
    rows, done = rows_run_by_step(host, PLAN, sampler_name=sampler)
    assert rows == [2, 2, 2, 2, 2, 0, 2, 0, 2, 2]
    assert "2 of 10 steps forecast" in done.comments and "MiB kept" in done.comments
    assert not host.errors.reports
    assert done.infotexts[0].count("Accel forecast") >= 1


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M"])
@pytest.mark.parametrize("options", [{}, {"batch_cond_uncond": False}], ids=["together", "apart"])
def test_error_control(host, sampler, options):
    host.shared.opts.data.update(options)
    rows, _ = rows_run_by_step(host, FREE, sampler_name=sampler, batch_size=2)
    assert rows == [4, 4, 4, 4, 4, 0, 4, 0, 4, 4]
    served = methods_of(host)[0]["served"]
    assert [(one["picture"], one["steps"]) for one in served] == [(0, [5, 7]), (1, [5, 7])]


@pytest.mark.parametrize("prompt", ["a AND b :0.5", ["a AND b", "c"], "a prompt of many words"])
def test_other_prompts(host, prompt):
    rows, _ = rows_run_by_step(host, FREE, prompt=prompt, batch_size=2)
    assert [not count for count in rows] == [step in (5, 7) for step in range(STEPS)]


def test_the_hires_pass_has_its_own_warm_up(host):
    rows, _ = rows_run_by_step(host, PLAN, enable_hr=True, hr_second_pass_steps=8, denoising_strength=0.7)
    assert rows[:10] == [2, 2, 2, 2, 2, 0, 2, 0, 2, 2] and rows[10:] == [2, 2, 2, 2, 2, 0, 2, 2]
    assert [len(one["report"]["methods"][0]["served"]) for one in last_report(host)["passes"]] == [1, 1]


def test_image_to_image_says_when_there_is_nothing_to_save(host):
    rows, _ = rows_run_by_step(host, PLAN, tab="img2img", denoising_strength=0.4)
    assert set(rows) == {2} and "too_short" in guided.codes(methods_of(host)[0])
    rows, _ = rows_run_by_step(host, PLAN, tab="img2img", denoising_strength=0.8, steps=12)
    assert 0 in rows


def test_prompts_that_change(host):
    """Nothing is continued over a change."""
    rows, _ = rows_run_by_step(host, FREE, prompt="a [b:c:0.3]", steps=14)
    assert all(rows[:9]) and 0 in rows[9:]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"sampler_name": "DPM adaptive"}, None),
        ({"sampler_name": "Heun"}, "no_forecast: evaluations"),
        ({"sampler_name": "UniPC"}, "no_forecast: no_level"),
        ({"prompt": "a <lora:style:0.2@0,1@0.5>"}, "no_forecast: lora_changes"),
        ({"prompt": "a <lora:style:1:lbw=MIDD:start=5>"}, "no_forecast: lora_changes"),
        ({"prompt": "a <lora:style:1:1:lbw=ALL:step=2-6>"}, "no_forecast: lora_changes"),
    ],
)
def test_where_every_step_runs(host, fields, why):
    plain = host.job(steps=STEPS, **fields)
    rows, done = rows_run_by_step(host, FREE, **fields)
    assert all(rows) and same(done, plain)
    if why is None:
        assert "Forecast is off" in done.comments
    else:
        assert why in codes(host)


def test_a_sampler_that_runs_fewer_steps_than_it_says(host, monkeypatch):
    """As DDIM does in image to image: that no forecast was near enough is told all the same."""

    from modules.sd_samplers_common import Sampler

    loop = Sampler._loop

    def say_more(self, x, sigmas, denoiser, extra):
        denoiser.total_steps += 2
        return loop(self, x, sigmas, denoiser, extra)

    monkeypatch.setattr(Sampler, "_loop", say_more)
    assert all(rows_run_by_step(host, FREE | {"forecast.tolerance": 1e-9}, steps=14)[0])
    assert codes(host) == ["too_far_off"]


def test_units_of_controlnet_that_begin_and_end(host):
    """The steps of a change run, and what went before is not continued."""

    class Unit:
        start_guidance_percent, stop_guidance_percent = 0.0, 0.45

    script = host.runners["txt2img"].alwayson_scripts[0]
    script.latest_network = type("Network", (), {"control_params": [Unit()]})()
    rows, _ = rows_run_by_step(host, FREE, steps=16)
    assert [step for step, count in enumerate(rows) if not count][:2] == [5, 7]
    assert all(rows[8:13])


@pytest.mark.parametrize(
    "settings", [{"tgate.on": True, "tgate.gate": 0.3}, {"guidance.on": True, "guidance.when": "after", "guidance.after": 0.3}]
)
def test_a_lora_whose_weight_changes_in_mid_pass(host, monkeypatch, settings):
    """Attention and guidance that were kept under another weight are computed anew."""
    settings = {"enabled": True, "preset": "Custom", "auto": False} | settings
    settings |= {"guidance.reuse": True} if "guidance.on" in settings else {}
    lora = type("Network", (), {"name": "style", "unet_multiplier": 1.0})()
    monkeypatch.setitem(sys.modules, "networks", type("Module", (), {"loaded_networks": [lora]}))
    assert rows_run_by_step(host, settings)[0] == [2, 2, 2, 1, 1, 1, 1, 1, 1, 1]

    def change(params):
        # The host counts finished steps.
        lora.unet_multiplier = 0.5 if params.sampling_step >= 5 else 1.0

    monkeypatch.setitem(host.callbacks.callbacks, "cfg_denoiser", [("lora", change), *host.callbacks.callbacks["cfg_denoiser"]])
    assert rows_run_by_step(host, settings)[0] == [2, 2, 2, 1, 1, 1, 2, 1, 1, 1]


def test_texts_that_another_extension_changes_in_mid_pass(host):
    """CADS draws noise into them in early steps: nothing is continued from another text. Prompt editing is told beforehand."""

    def noise(params):
        if params.denoiser.step < 6:
            params.text_cond = params.text_cond + torch.randn(params.text_cond.shape) * 0.1

    host.callbacks.on_cfg_denoiser(noise)
    rows, done = rows_run_by_step(host, FREE, steps=16)
    assert all(rows[:9]) and 0 in rows[9:]
    assert "another extension changed the prompts during the pass" in done.comments
    host.callbacks.remove_callbacks_for_function(noise)
    assert "changed" not in rows_run_by_step(host, FREE, steps=16, prompt="a [b:c:0.3] [d|e]")[1].comments


def test_stages_that_another_extension_puts_scalers_around(host):
    """Kohya Hires.fix, until a step of its own: nothing is continued from the U-Net with scalers to the one without."""
    unet = host.shared.sd_model.model.diffusion_model
    first, last = unet.input_blocks[2], unet.output_blocks[-3]

    class Scaler(torch.nn.Module):
        def __init__(self, scale, block):
            super().__init__()
            self.scale, self.block = scale, block

        def forward(self, x, *args):
            return self.block(torch.nn.functional.interpolate(x, scale_factor=self.scale), *args)

    def put(params):
        begins, ends = params.denoiser.step == 0, params.denoiser.step == 6
        if begins or ends:
            unet.input_blocks[2], unet.output_blocks[-3] = (Scaler(0.5, first), Scaler(2.0, last)) if begins else (first, last)

    host.callbacks.on_cfg_denoiser(put)
    rows, _ = rows_run_by_step(host, FREE, steps=16)
    assert not rows[5] and all(rows[6:9]) and 0 in rows[9:]
    assert not host.errors.reports


def test_off_is_exact_after_it(host):
    before = host.job(steps=STEPS)
    host.job(steps=STEPS, accel=PLAN)
    assert same(host.job(steps=STEPS), before)
    assert "forward" not in vars(host.shared.sd_model.model.diffusion_model)


def test_pictures_of_a_batch_count_are_counted_together(host):
    _, done = rows_run_by_step(host, PLAN, n_iter=3)
    served = [entry["report"]["methods"][0]["served"] for entry in last_report(host)["passes"]]
    assert served == [[{"pass": number, "picture": 0, "steps": [5, 7]}] for number in (1, 2, 3)]
    assert "6 of 30 steps forecast" in done.comments
    assert all("2 of 10 steps forecast" in text for text in done.infotexts)


@pytest.mark.parametrize("same_unet", [False, True])
def test_a_refiner_begins_anew_in_the_same_pass(host, same_unet):
    """The host draws one pass; what was served before and after the switch is told together."""
    refiner = host.model(seed=5, name="refiner")
    if same_unet:
        refiner.model.diffusion_model = host.shared.sd_model.model.diffusion_model
    rows, done = rows_run_by_step(host, FREE, refiner_model=refiner, refiner_switch_at=0.5, steps=24)
    parts = [entry["report"] for entry in last_report(host)["passes"]]
    entries = [one for part in parts for one in part["methods"][0]["served"]]
    told = [step for one in entries for step in one["steps"]]
    # The U-Net that is watched is that of the first part.
    assert [step for step, count in enumerate(rows) if not count and (same_unet or step < 12)] == [s for s in told if same_unet or s < 12]
    # Nothing is continued over the switch.
    assert not {*range(12, 17)} & {*told} and min(told) < 12 and max(told) > 16
    assert {one["pass"] for one in entries} == {1} and sum(part["passes"] for part in parts) == 1
    assert sum(part["calls_served"] for part in parts) == len(told)
    assert f"{len(told)} of 24 steps forecast" in done.comments
