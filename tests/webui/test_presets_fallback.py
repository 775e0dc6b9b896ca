"""What stands in presets in case alone (DeepCache, guidance skip): no word of it where the user has no use for one."""

import pytest
from acting import blocks, data_of

QUALITY = {"enabled": True, "preset": "Quality", "auto": False}
FAST = {"enabled": True, "preset": "Fast", "auto": False}


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M"])
@pytest.mark.parametrize("settings", [QUALITY, FAST], ids=["quality", "fast"])
def test_passes_too_short_for_forecasts(host, settings, sampler):
    """Image to image at low denoising, and hires passes of a few steps: not a word, and no caches."""
    done = host.job(accel=settings, tab="img2img", denoising_strength=0.3, steps=14, sampler_name=sampler, cfg_scale=7)
    (entry,) = data_of(done)["passes"]
    cache = next(method for method in entry["report"]["methods"] if method["method"] == "DeepCache")
    assert entry["report"]["steps"] < 8 and "too short" in done.comments
    assert "DeepCache" not in done.comments and not cache["cache_bytes"] and not cache["shallow_steps"]


@pytest.mark.parametrize("settings", [QUALITY, FAST], ids=["quality", "fast"])
def test_samplers_that_add_noise(host, settings, monkeypatch):
    """The line says once why nothing is forecast."""
    from modules import sd_samplers_common

    monkeypatch.setitem(sd_samplers_common.SAMPLERS, "DPM++ SDE", sd_samplers_common.SAMPLERS["Heun"])
    done = host.job(accel=settings, steps=14, sampler_name="DPM++ SDE", cfg_scale=7)
    assert "Forecast: nothing [no step was forecast: DPM++ SDE runs the U-Net 2 times a step]" in done.comments
    assert "DeepCache" not in done.comments and "GuidanceSkip" not in done.comments


def test_who_asks_for_it_reads_why_it_did_nothing(host):
    asked = {"enabled": True, "preset": "Custom", "deepcache.on": True, "deepcache.only_where_better": True}
    done = host.job(accel=asked, steps=14, sampler_name="Euler a", cfg_scale=7)
    assert "DeepCache: nothing [Euler a adds noise" in done.comments


def test_a_sampler_that_chooses_its_steps_is_told_of_once(host):
    done = host.job(accel=QUALITY, steps=14, sampler_name="DPM adaptive", cfg_scale=7)
    assert "Forecast, DeepCache are off: this sampler chooses the number of steps itself" in done.comments
    assert done.comments.count("chooses the number of steps itself") == 1


@pytest.mark.parametrize(("sampler", "off"), [("Euler", "Forecast off: "), ("Heun", "Forecast, DeepCache off: ")])
def test_neighbours_that_need_every_row(host, sampler, off):
    """What would stand aside all the same is not named."""
    made = {}
    file = "/extensions/sd-webui-controlnet/scripts/hook.py"
    exec(compile("def hacked(self, x, context=None):\n    return type(self)._forward(self, x, context)\n", file, "exec"), made)
    for block in blocks(host):
        block._forward = made["hacked"].__get__(block)
    done = host.job(accel=QUALITY, steps=14, sampler_name=sampler, cfg_scale=7)
    assert f"{off}ControlNet's reference needs every row" in done.comments and done.comments.count("DeepCache") == ("DeepCache" in off)


def test_jobs_that_are_stopped(host):
    def interrupt(params):
        if params.sampling_step == 9:
            host.shared.state.interrupted = True

    host.callbacks.callbacks["cfg_denoiser"].insert(0, ("stopping", interrupt))
    done = host.job(accel=QUALITY, steps=14, sampler_name="Euler", cfg_scale=7)
    assert "stopped after" in done.comments and "DeepCache" not in done.comments


def test_batches_of_which_it_served_one(host):
    """The account of a job is of all of its batches: what was said of the first is not said of both."""
    from lib_accel.webui.jobs.account import _merged

    counts = ("unet_calls", "calls_run", "calls_served", "calls_measured", "stages_run", "stages_served", "rows", "rows_run")
    more = ("rows_served", "passes", "steps", "seconds", "sites")
    zero = ("layer_calls", "tokens_in", "tokens_run", "unguided_steps", "kept_direction_steps", "evaluations_saved", "rows_shallow")

    def report(shallow, idle):
        method = dict.fromkeys((*zero, "layers", "too_small", "cache_bytes"), 0) | {"steps": 4, "shallow_steps": shallow, "idle": idle}
        method |= {"method": "DeepCache", "settings": {}, "served": [], "shallow_in": [], "notes": [], "reasons": []}
        method |= {"layers_by_effect": {}, "stood_down": {}, "failed": None, "off": None}
        return dict.fromkeys((*counts, *more), 1) | {"stood_down": [], "reasons": [], "methods": [method]}

    assert _merged([report(0, "no step was left"), report(3, None)])["methods"][0]["idle"] is None
