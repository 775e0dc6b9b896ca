"""What is told of a job that was stopped, of one whose passes have checkpoints of their own, of cells, and of a job before."""

import html
import json
import re

import pytest
from acting import data_of
from harness import same
from inner import detail

ON = {"enabled": True, "preset": "Custom", "auto": False, "merging.ratio": 0.5}
BALANCED = {"enabled": True, "preset": "Balanced", "auto": False}


@pytest.mark.parametrize("how", ["interrupted", "skipped"])
def test_a_stopped_job_says_so_and_not_that_settings_left_nothing_to_do(host, how):
    calls = []

    def stop(params):
        calls.append(params)
        if len(calls) == 4:
            setattr(host.shared.state, how, True)

    host.callbacks.on_cfg_denoiser(stop)
    done = host.job(accel=BALANCED, steps=20, cfg_scale=7)
    for line in (done.comments, done.infotexts[0]):
        assert "stopped after 4 steps" in line and "stopped before it could act" in line
        assert "no step" not in line and "nothing to do" not in line
    codes = {reason["code"] for method in data_of(done)["passes"][0]["report"]["methods"] for reason in method["reasons"]}
    # DeepCache would have stood aside in all of it.
    assert codes == {"stopped_before", "forecast_instead"}
    setattr(host.shared.state, how, False)
    assert "stopped" not in host.job(accel=BALANCED, steps=20, cfg_scale=7).comments


def test_few_steps_are_told_of_the_pass_whose_checkpoint_says_so(host):
    turbo, passes = host.model(seed=4, name="sdxl-turbo"), {"steps": 14, "cfg_scale": 7, "enable_hr": True, "hr_second_pass_steps": 14}
    usual = host.shared.sd_model
    first, hires = host.job(accel=BALANCED, hr_model=turbo, **passes).comments.split("hires pass: ")
    assert "few steps (" not in first and "few steps (" in hires
    host.sd_models.switch_to(turbo)
    first, hires = host.job(accel=BALANCED, hr_model=usual, **passes).comments.split("hires pass: ")
    assert "few steps (" in first and "few steps (" not in hires and "Forecast" in hires


def test_a_refiner_adds_no_picture_to_decode(host):
    alone = data_of(host.job(accel=ON, steps=10, width=512, height=512))["times_as_fast"]
    refined = host.job(accel=ON, steps=10, width=512, height=512, refiner_model=host.model(seed=5, name="refiner"), refiner_switch_at=0.5)
    assert data_of(refined)["times_as_fast"] == pytest.approx(alone, rel=1e-6)


def test_a_picture_between_two_passes_has_not_the_account_of_the_batch_before(host, monkeypatch):
    told, before = [], host.processing.StableDiffusionProcessingTxt2Img.before_sampling

    def between(p, *given):
        if p.is_hr_pass:
            told.append(host.processing.create_infotext(p))
        return before(p, *given)

    monkeypatch.setattr(host.processing.StableDiffusionProcessingTxt2Img, "before_sampling", between)
    done = host.job(accel=ON, steps=4, enable_hr=True, n_iter=2)
    assert len(told) == 2 and not any("Accel report" in text for text in told) and all("Accel merging" in text for text in told)
    assert all("Accel report" in text for text in done.infotexts)


def test_the_strip_shows_no_job_before_the_last(host):
    from lib_accel.webui.accordion import strip

    values = [control.value for control in host.script().controls]

    def shown():
        return "as it ran" in strip.show(json.dumps({"width": 512, "height": 512, "steps": 20, "ran": True}), *values)[1]

    host.job(accel=ON, steps=6)
    assert shown()
    host.job(steps=4)
    assert not shown()


def test_a_tab_shows_the_steps_of_its_own_pictures(host):
    from lib_accel.webui.accordion import strip

    def shown(tab):
        values = [control.value for control in host.script(tab).controls]
        asked = {"tab": tab, "width": 512, "height": 512, "steps": 20, "ran": True}
        found = re.search("as it ran.*?, ([0-9]+) <span>steps", strip.show(json.dumps(asked), *values)[1])
        return found and int(found[1])

    host.job(accel=ON, steps=6)
    assert (shown("txt2img"), shown("img2img")) == (6, None)
    host.job("img2img", accel=ON, steps=11, denoising_strength=0.75)
    assert (shown("txt2img"), shown("img2img")) == (6, 9)
    # No page shows what a request drew.
    asked = host.p(accel=ON, steps=7)
    asked.is_api = True
    host.processing.process_images(asked)
    assert (shown("txt2img"), shown("img2img")) == (6, 9)
    host.job(steps=4)
    assert (shown("txt2img"), shown("img2img")) == (None, 9)


def _page(host, *, sampler="Euler", tab="txt2img", hires=0, steps=20, **changes):
    """(header, strip, sentence) of a page whose knobs were changed so, as texts."""
    from lib_accel.settings.schema import KNOBS
    from lib_accel.webui.accordion import strip

    values = dict(zip(KNOBS, (control.value for control in host.script(tab).controls))) | {"enabled": True} | changes
    sizes = {"tab": tab, "width": 512, "height": 512, "steps": steps, "sampler": sampler, "guidance": 7, "hires": hires}
    return [re.sub("<[^>]*>", "", text) for text in strip.show(json.dumps(sizes), *values.values())]


def test_the_page_asks_again_while_no_checkpoint_is_loaded(host):
    from lib_accel.webui.accordion import strip

    def waits():
        told = strip.show("", *[control.value for control in host.script().controls])[1]
        return json.loads(html.unescape(re.search('data-told="([^"]*)"', told)[1]))["waiting"]

    assert waits()
    host.job(steps=2)
    assert not waits()


MERGED = {"preset": "Custom", "auto": False, "merging.on": True, "forecast.on": False, "downsampling.on": False, "guidance.on": False}


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("token_merging_ratio", ()),
        ("token_merging_ratio_hr", ("txt2img first pass", "img2img first pass")),
        ("token_merging_ratio_img2img", ("txt2img first pass", "txt2img hires pass")),
    ],
)
def test_the_page_foresees_that_the_hosts_token_merging_switches_methods_off(host, monkeypatch, option, shown):
    monkeypatch.setitem(host.shared.opts.data, option, 0.5)
    merged = []
    for tab, hires in (("txt2img", 2), ("img2img", 0)):
        strip = _page(host, tab=tab, hires=hires, **MERGED)[1]
        assert "the WebUI's own token merging is on" in strip or option != "token_merging_ratio"
        places = re.split("(first pass|hires pass)", strip)
        merged += [f"{tab} {place}" for place, told in zip(places[1::2], places[2::2]) if "merged" in told]
    assert tuple(sorted(merged)) == tuple(sorted(shown))
    # As the job does.
    assert ("methods on tokens off" in host.job(accel=MERGED, steps=6).comments) is ("txt2img first pass" not in shown)


def test_the_page_foresees_that_a_sampler_chooses_its_steps_itself(host):
    strip = _page(host, sampler="DPM adaptive", preset="Custom", auto=False, **{"tgate.on": True, "guidance.on": True})[1]
    assert "chooses the number of steps itself" in strip
    assert not any(word in strip for word in ("no negative prompt", "direction kept", "cross-attention cached"))
    # Nor is it one of few steps, for the job.
    assert "few steps" in _page(host, steps=8)[2] and "few steps" not in _page(host, steps=8, sampler="DPM adaptive")[2]


def test_an_axis_reaches_the_jobs_inside_of_a_cell(start):
    without = start(extension=False)
    plain = detail(without)
    without.job(steps=6)
    host = start()
    inside = detail(host, kept=("Accel",))
    grid = host.grid("[Accel] Preset", "Off, Fast", accel=ON, steps=6)
    off, fast = inside
    assert same(off, plain[0]) and "Accel" not in off.infotexts[0]
    assert "Accel: Fast" in fast.infotexts[0]
    del inside[:]
    host.job(accel=ON, steps=6)
    assert "Accel: Custom" in inside[0].infotexts[0], "a cell of a plot that is over"
    assert "Off" in grid.comments and "Fast" in grid.comments


def test_cells_are_told_once_where_others_call_the_scripts_for_copies(host):
    detail(host)
    grid = host.grid("[Accel] Preset", "Quality, Fast", accel=BALANCED, steps=4)
    (line,) = [line for line in grid.comments.splitlines() if line.startswith("Accel, cells")]
    assert line.count(" s (") == 2 and "Off" not in line


def test_pasted_token_counts_leave_other_methods_this_machines(host):
    from lib_accel.settings.job import Settings, on_this_machine
    from lib_accel.webui.host import facts

    table = facts.table()[0].least
    pasted = {"enabled": True, "preset": "custom", "merging.on": True, "least.merging": 77}
    counts = on_this_machine(Settings(pasted | {"agents.on": True}), facts.table)[0]
    assert counts["least.merging"] == 77 and counts["least.agents"] == table["AgentAttention"] > 0
    assert counts["least.downsampling"] == 0


def test_a_sheet_is_not_saved_where_the_request_says_so(host, tmp_path):
    p = host.p()
    p.do_not_save_grid, p.outpath_grids = True, str(tmp_path)
    from PIL import Image

    from lib_accel.webui.jobs import started

    assert started.save_sheet(p, "t", Image.new("RGB", (8, 8)), "sheet", "info", "", 1) is None and not list(tmp_path.rglob("*.*"))
    p.do_not_save_grid = False
    assert started.save_sheet(p, "t", Image.new("RGB", (8, 8)), "sheet", "info", "", 1) is None


def test_a_lora_in_a_comment_says_nothing_of_the_model(host):
    """The host takes comments out behind our first look at the prompts: PNG info told the settings of few steps, and others ran."""
    prompt = "a red cat\n# <lora:LCM_v2:1>, for later"
    assert "few steps (the name of a LoRA" in host.job(accel=BALANCED, prompt=prompt, steps=12, cfg_scale=7).comments
    host.shared.opts.data["enable_prompt_comments"] = True
    done = host.job(accel=BALANCED, prompt=prompt, steps=12, cfg_scale=7)
    assert "few steps" not in done.comments and "Accel forecast level: fast" in done.infotexts[0]


def test_the_page_takes_a_lora_of_weight_0_for_none_as_the_job_does(host):
    from lib_accel.webui.accordion import asked

    size = {"width": 512, "height": 512, "steps": 20}
    assert asked.read(json.dumps(size | {"loras": ["<lora:LCM_v2:0>", "<lora:other:1>"]})).loras == ("other",)
