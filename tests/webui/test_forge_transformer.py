"""A diffusion transformer loaded in a host of the Forge family (its double): whole calls are served, the rest says what the model is."""

import json
import re

import pytest
import torch
from harness import Host, same

from lib_accel.settings.schema import KNOBS

FORECAST = {"enabled": True, "preset": "Custom", "auto": False, "forecast.on": True, "forecast.every": 2}
STEPS = 14
# By the fixed plan: a warm-up of 5 steps (.32 of 14), then every second, and the last.
SERVED = [5, 7, 9, 11]


def flow_levels(count):
    return torch.cat([torch.linspace(1.0, 1 / count, count), torch.zeros(1)])


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    started = Host(tmp_path_factory.mktemp("flux"), forge=True)
    with pytest.MonkeyPatch.context() as patched:
        from modules import sd_samplers_common

        patched.setattr(sd_samplers_common, "sigmas_of", flow_levels)
        started.sd_models.model_data.make = lambda: started.model(kind="flux")
        yield started
    started.stop()


def run(host, accel=None, **fields):
    from lib_accel.webui.jobs.session import SESSION

    done = host.job(accel=accel, **({"steps": STEPS, "sampler_name": "Euler"} | fields))
    model = host.shared.sd_model.forge_objects.unet.model.diffusion_model
    ran, model.ran = model.ran, 0
    return done, SESSION.last if accel else None, ran


def methods(account):
    return {method["method"]: method for one in account["passes"] for method in one["report"]["methods"]}


def codes(method):
    return [reason["code"] for reason in method["reasons"]]


@pytest.mark.parametrize(
    "fields", [{}, {"batch_size": 2}, {"prompt": "a AND b"}, {"cfg_scale": 1.0}], ids=["one", "two", "AND", "unguided"]
)
def test_whole_calls_are_served(host, fields):
    off, _, plain = run(host, **fields)
    on, account, ran = run(host, FORECAST, **fields)
    told = methods(account)["Forecast"]
    assert all(one["steps"] == SERVED for one in told["served"]) and len(told["served"]) == fields.get("batch_size", 1)
    assert ran == plain - len(SERVED) and not same(on, off)
    again, _, _ = run(host, **fields)
    assert same(again, off)


@pytest.mark.parametrize("fields", [{}, {"sampler_name": "Euler a"}, {"enable_hr": True, "hr_cfg": 1.0}], ids=["plain", "noisy", "hires"])
def test_a_preset_says_nothing_of_guidance_that_the_job_has_none_of(host, fields):
    _, account, _ = run(host, {"enabled": True, "preset": "Fast"}, cfg_scale=1.0, **fields)
    assert "GuidanceSkip" not in account["line"] and "no method" not in account["line"] and "Forecast: " in account["line"]
    assert codes(methods(account)["GuidanceSkip"]) == ["unguided_job"]
    # Who switches it on by hand is told.
    _, account, _ = run(host, FORECAST | {"guidance.on": True}, cfg_scale=1.0)
    assert "GuidanceSkip: nothing [no row was guided" in account["line"]


def test_a_stopped_job_does_not_say_that_guidance_would_have_been_left_out(host, monkeypatch):
    from lib_accel.webui.jobs import stopped

    monkeypatch.setattr(stopped, "was_stopped", lambda: True)
    _, account, _ = run(host, {"enabled": True, "preset": "Fast"}, cfg_scale=1.0)
    assert "stopped after 14 steps" in account["line"] and "GuidanceSkip" not in account["line"]
    assert codes(methods(account)["GuidanceSkip"]) == ["unguided_job"]


def test_sizes_are_told_in_pixels_however_small_latents_are(host):
    """Flux.2's are a sixteenth of the picture, which Forge Neo says when it loads one."""
    from modules import processing

    from lib_accel.webui.jobs.session import SESSION

    run(host, FORECAST, width=128, height=64)
    assert (SESSION.ran["txt2img"][0].width, SESSION.ran["txt2img"][0].height) == (128, 64)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(processing, "opt_f", 16, raising=False)
        run(host, FORECAST, width=128, height=64)  # The double's latents stay an eighth.
    assert (SESSION.ran["txt2img"][0].width, SESSION.ran["txt2img"][0].height) == (256, 128)


def test_the_error_is_controlled_and_few_steps_are_left_alone(host):
    off, _, plain = run(host, steps=8)
    on, account, ran = run(host, FORECAST | {"forecast.every": 0}, steps=8)
    told = methods(account)["Forecast"]
    assert ran == plain and same(on, off) and codes(told) == ["no_forecast"] and told["reasons"][0]["why"]["code"] == "few_step_model"
    _, account, ran = run(host, FORECAST | {"forecast.every": 0, "forecast.tolerance": 1000})
    assert methods(account)["Forecast"]["served"] and ran < STEPS


def test_samplers_that_add_noise_were_not_measured(host):
    off, _, plain = run(host, sampler_name="Euler a")
    on, account, ran = run(host, FORECAST, sampler_name="Euler a")
    told = methods(account)["Forecast"]
    assert ran == plain and same(on, off) and told["reasons"][0]["why"]["code"] == "noisy_flow"


@pytest.mark.parametrize("threshold", [0.0, 0.12])
def test_nunchakus_own_cache_is_left_its_calls(host, threshold):
    """Forge Neo's option for it is 0 by default. Nunchaku's model, which is inside of the host's, knows when two calls are alike enough."""
    off, _, plain = run(host)
    nunchaku = torch.nn.Module()
    nunchaku._is_cached, nunchaku.residual_diff_threshold_multi = True, threshold
    model = host.shared.sd_model.forge_objects.unet.model.diffusion_model
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(model._modules, "model", nunchaku)
        on, account, ran = run(host, FORECAST)
    told = methods(account)["Forecast"]
    assert same(on, off) == bool(threshold) and ran == plain - (0 if threshold else len(SERVED))
    assert [reason["why"]["code"] for reason in told["reasons"]] == (["nunchaku_cache"] if threshold else [])
    assert not threshold or "Nunchaku's First Block Cache acts on them" in account["line"]


def test_guidance_is_skipped_and_what_needs_layers_names_the_model(host):
    on = {"enabled": True, "preset": "Custom", "auto": False, "guidance.on": True, "guidance.when": "after", "guidance.after": 0.5}
    off, _, _ = run(host)
    done, account, _ = run(host, on | {"merging.ratio": 0.5, "tgate.on": True, "deepcache.on": True})
    told = methods(account)
    assert told["GuidanceSkip"]["unguided_steps"] + told["GuidanceSkip"]["kept_direction_steps"] == STEPS // 2 and not same(done, off)
    for name in ("TokenMerging", "TGate", "DeepCache"):
        if name in told:
            (reason,) = [one for one in told[name]["reasons"] if one["code"] == "whole_calls_only"]
            assert reason["model"] == "Transformer"
    assert {"TokenMerging", "DeepCache"} & told.keys()


def test_prompt_to_prompt_refuses_what_it_cannot_edit_before_it_draws(host):
    """Flux has a text encoder that the script knows, and no layer that it could edit."""
    import client

    run(host)
    status, told = client.post(host, script_name="prompt-to-prompt", script_args=[{"edits": "red -> blue"}], prompt="a red cat")
    model = host.shared.sd_model.forge_objects.unet.model.diffusion_model
    assert status == 422 and "can change nothing: this model has no transformer blocks" in told and model.ran == 0


def cells_of(html):
    """Of each strip: its text up to the legend."""
    return [re.sub("<.*?>", "", one.split('<div class="accel-strip">')[0]) for one in html.split('<div class="accel-pass">')[1:]]


@pytest.mark.parametrize("sampler, gain, rows", [("Euler", "1.9x", 13), ("Heun", None, 25)])
def test_nothing_is_said_to_be_saved_of_a_negative_prompt_that_the_host_leaves_out(host, sampler, gain, rows):
    """At scale 1, which is usual with Flux, hosts of this family run the prompt alone."""
    from lib_accel.webui.accordion import strip

    run(host)
    values = dict(zip(KNOBS, (control.value for control in host.script().controls))) | {"enabled": True, "preset": "Quality"}
    sizes = {"width": 1024, "height": 1024, "steps": 25, "sampler": sampler}
    at_one = strip.show(json.dumps(sizes | {"guidance": 1}), *values.values())
    at_four = strip.show(json.dumps(sizes | {"guidance": 4}), *values.values())
    assert (gain or "not faster here") in at_one[0] and (gain or "not faster here") in at_four[0]
    told = f"sampling about {gain} as fast" if gain else "not faster here"
    assert cells_of(at_one[1]) == [f"first pass 1024x1024, 25 steps: {told}, {rows}/25 transformer row evaluations"]
    assert f"{2 * rows}/50 transformer" in cells_of(at_four[1])[0] and "no negative prompt" not in at_one[1]


def test_the_hires_pass_has_its_own_scale_on_the_page(host):
    from lib_accel.webui.accordion import strip

    run(host)
    values = dict(zip(KNOBS, (control.value for control in host.script().controls))) | {"enabled": True, "preset": "Quality"}
    sizes = {"width": 512, "height": 512, "steps": 25, "sampler": "Heun", "guidance": 4, "hires": 2}
    for scale, rows in ((1, "25/25"), (6, "50/50"), (0, "50/50"), (None, "50/50")):
        first, hires = cells_of(strip.show(json.dumps(sizes | {"hires_guidance": scale}), *values.values())[1])
        assert "50/50" in first and rows in hires


def test_a_pass_that_ran_unguided_is_told_as_such(host):
    from lib_accel.webui.jobs.session import SESSION

    for scale, rows in ((1.0, 1), (4.0, 2)):
        run(host, FORECAST, cfg_scale=scale)
        (ran,) = SESSION.ran["txt2img"]
        assert (ran.rows_of_step, ran.rows) == (rows, rows * (STEPS - len(SERVED)))
        assert ran.plain / ran.work == pytest.approx(STEPS / (STEPS - len(SERVED)))


@pytest.mark.parametrize("preset", ["Quality", "Balanced", "Fast", "Draft"])
def test_presets_at_guidance_scale_one(host, preset):
    """That of models with guidance in themselves, which need no few steps; nothing is said of methods that need layers."""
    off, _, plain = run(host, cfg_scale=1.0, steps=20)
    on, account, ran = run(host, {"enabled": True, "preset": preset}, cfg_scale=1.0, steps=20)
    told = methods(account)
    assert account["notes"] == {} and "whole_calls_only" not in str(told) and told.keys() <= {"Forecast", "GuidanceSkip"}
    served = told["Forecast"]["served"][0]["steps"] if told["Forecast"]["served"] else []
    assert ran == plain - len(served) and same(on, off) == (not served)


def test_names_of_few_step_models_are_still_heeded(host):
    run(host)  # A test alone finds no model loaded.
    info = host.shared.sd_model.sd_checkpoint_info
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(info, "title", "flux1-schnell.safetensors", raising=False)
        off, _, plain = run(host)
        on, account, ran = run(host, {"enabled": True, "preset": "Fast"})
        asked, by_hand, fewer = run(host, FORECAST)
    assert ran == plain and same(on, off)
    assert "off: a model that is run in few steps (its checkpoint's name says so)" in account["line"]
    assert not any(word in account["line"] for word in ("Token", "GuidanceSkip", "U-Net", "settings for few steps"))
    assert methods(by_hand)["Forecast"]["served"] and fewer < plain and not same(asked, off)


def test_the_account_names_the_model_for_what_it_is(host):
    _, account, _ = run(host, FORECAST | {"guidance.on": True, "guidance.when": "after", "guidance.after": 0.5, "tgate.on": True})
    assert " transformer calls run in " in account["line"] and "U-Net" not in str(account)
    from modules import sd_unet

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sd_unet, "current_unet", object(), raising=False)
        _, account, _ = run(host, FORECAST)
    assert "the option sd_unet runs the transformer elsewhere" in account["line"]


def test_the_page_names_the_model_for_what_it_is(host):
    from lib_accel.webui.accordion import strip

    run(host)
    values = dict(zip(KNOBS, (control.value for control in host.script().controls))) | {"enabled": True, "preset": "Fast"}

    def shown(**told):
        sizes = {"width": 1024, "height": 1024, "steps": 25, "guidance": 7, "sampler": "Euler", **told}
        return strip.show(json.dumps(sizes), *values.values())

    header, html, sentence = shown()
    assert "transformer row evaluations" in html and "U-Net" not in html and "as fast" in header and "few steps" not in sentence
    header, html, sentence = shown(loras=["<lora:lightx2v_4step:1>"])
    assert "With few steps presets leave this model as it is." in sentence and "not faster" in header
    assert "oken" not in html and '"gains": {}' in html.replace("&quot;", '"')
