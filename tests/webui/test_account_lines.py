"""What the line under the picture says about what stood down and for what a job was taken."""

import json
import re
from types import SimpleNamespace

import pytest
from acting import data_of
from harness import same

from lib_accel.settings.schema import KNOBS

CUSTOM = {"enabled": True, "preset": "Custom", "merging.ratio": 0.5}


def methods_of(done, place):
    """(method, layers, layers that were too small) of a pass."""
    (report,) = (entry["report"] for entry in data_of(done)["passes"] if entry["place"] == place)
    return [(method["method"], method["layers"], method["too_small"]) for method in report["methods"]]


def test_sizes_at_which_nothing_pays(start):
    without = start(extension=False).job(enable_hr=True)
    host = start()
    done = host.job(accel=CUSTOM | {"least.merging": 2000}, enable_hr=True)
    assert [methods_of(done, place) for place in ("first pass", "hires pass")] == [[("TokenMerging", 0, 3)]] * 2
    first, hires = done.comments.split("hires pass:")
    for told, size in ((first, "128x128"), (hires, "256x256")):
        # Once in each pass, and not layer by layer.
        assert told.count("not worth it") == 1 and f"TokenMerging off at {size}: not worth it" in told
    assert same(done, without)
    only_hires = host.job(accel=CUSTOM | {"least.merging": 1000}, enable_hr=True)
    assert [methods_of(only_hires, place)[0][1] for place in ("first pass", "hires pass")] == [0, 3]


def test_sizes_at_which_it_pays(host):
    assert methods_of(host.job(accel=CUSTOM | {"auto": False}), "first pass") == [("TokenMerging", 3, 0)]


def test_several_methods_that_the_size_keeps_from_acting_are_told_of_once(host):
    both = {"merging.on": True, "downsampling.on": True, "least.merging": 2000, "least.downsampling": 2000}
    assert host.job(accel=CUSTOM | both).comments.count("not worth it") == 1


def test_a_level_that_is_left_alone_does_not_contradict_those_that_are_not(host):
    # The finest level has 256 tokens, the deeper one 64.
    deeper = {"enabled": True, "preset": "Custom", "downsampling.on": True, "downsampling.deeper_factor": 2, "least.downsampling": 200}
    told = host.job(accel=deeper).comments
    assert re.search(r"TokenDownsampling: downsampling on 3 of 7 layers for 5 of 5 steps;.* off on \d layers: not worth it on", told)


def test_first_the_time_and_what_was_saved_then_what_was_done_then_what_was_not(host):
    accel = CUSTOM | {
        "auto": False,
        "guidance.on": True,
        "guidance.when": "after",
        "guidance.after": 0.4,
        "agents.on": True,
        "agents.end": 0.01,
    }
    done = host.job(accel=accel, steps=12)
    account = data_of(done)
    assert account["times_as_fast"] > 1.2
    line = account["line"]
    assert line.startswith(f"Accel Custom: {account['times_as_fast']:.1f}x est., 12 steps, 12 U-Net calls in ")
    saved = sum(method["evaluations_saved"] for method in account["passes"][0]["report"]["methods"])
    assert f" s ({24 - saved} of 24 row evaluations); " in line
    # Under a picture the line stands once: what the settings say already is left out of PNG info.
    report = done.infotexts[0].split("Accel report: ")[1]
    assert "row evaluations" in report and "TokenMerging" not in report


def test_nothing_is_said_to_be_faster_where_nothing_was_saved(host):
    account = data_of(host.job(accel=CUSTOM | {"least.merging": 2000}))
    assert account["times_as_fast"] == pytest.approx(1)
    assert "no time saved (est.)" in account["line"]


def test_a_setting_that_cannot_act_as_far_as_it_says_is_told(host):
    assert "the cell size limits the merging ratio to 0.75" in host.job(accel=CUSTOM | {"auto": False, "merging.ratio": 0.9}).comments
    assert "cells" not in host.job(accel=CUSTOM | {"auto": False, "merging.ratio": 0.75}).comments


def test_a_method_whose_steps_another_one_takes_is_told(host):
    taken = CUSTOM | {"auto": False, "agents.on": True, "agents.end": 1.0}
    assert "TokenMerging off: AgentAttention acts in all of its steps" in host.job(accel=taken).comments
    assert "TokenMerging off" not in host.job(accel=taken | {"agents.end": 0.4}).comments


def test_first_pass_off_without_a_hires_pass_is_told(host):
    assert "nothing is accelerated: First pass is off" in host.job(accel=CUSTOM | {"first_pass": False}).comments
    assert "nothing is accelerated" not in host.job(accel=CUSTOM | {"first_pass": False}, enable_hr=True).comments


def test_the_header_says_so_too(host):
    from lib_accel.webui.accordion import strip as preview

    values = dict(zip(KNOBS, (control.value for control in host.script().controls))) | {"first_pass": False}
    for hires, expected in ((0, True), (2, False)):
        badge = preview.show(json.dumps({"width": 512, "height": 512, "steps": 20, "hires": hires}), *values.values())[0]
        assert ("nothing accelerated" in badge) == expected


def test_the_strip_knows_that_edits_run_steps(host):
    from lib_accel.webui.accordion import strip as preview

    values = [control.value for control in host.script().controls]
    for edits in (False, True):
        strip = preview.show(json.dumps({"width": 512, "height": 512, "steps": 20, "edits": edits}), *values)[1]
        assert ("Prompt-to-Prompt is on" in strip) == edits


def test_png_info_has_this_machines_token_counts_of_methods_that_are_on(host):
    info = host.job(accel=CUSTOM | {"agents.on": False, "merging.on": True, "downsampling.on": False}).infotexts[0]
    assert re.findall(r"Accel least tokens (\w+)", info) == ["merging"]


@pytest.mark.parametrize(
    ("fields", "sign"),
    [
        ({"steps": 12, "cfg_scale": 7.0}, None),
        ({"steps": 5, "cfg_scale": 7.0}, "5 steps"),
        ({"steps": 12, "cfg_scale": 1.5}, "CFG scale 1.5"),
        ({"steps": 12, "sampler_name": "LCM"}, "its sampler is LCM"),
        ({"steps": 12, "prompt": "a cat <lora:lightning_4step:1>"}, "the name of a LoRA says so"),
    ],
)
def test_few_step_models_get_their_presets_and_a_sentence(host, fields, sign):
    comments = host.job(accel={"enabled": True, "preset": "Balanced", "auto": False}, **fields).comments
    if sign is None:
        assert "few steps" not in comments and "Forecast" in comments
    else:
        assert f"few steps ({sign}): the preset uses its settings for few steps" in comments
        assert "downsampling on 3 of 7 layers" in comments and "Forecast" not in comments
    assert "lightning" not in comments
    custom = host.job(accel=CUSTOM | {"auto": False}, **fields).comments
    assert "few steps" not in custom


def test_the_checkpoints_name_says_so(host):
    host.shared.sd_model.sd_checkpoint_info = SimpleNamespace(
        title="sd_xl_turbo_1.0.safetensors [0123456789]", model_name="sd_xl_turbo_1.0"
    )
    on = {"enabled": True, "preset": "Balanced", "auto": False}
    assert "(its checkpoint's name says so)" in host.job(accel=on, steps=12).comments
    from lib_accel.webui.accordion import strip as preview

    values = [control.value for control in host.script().controls]
    strip = preview.show(json.dumps({"width": 1024, "height": 1024, "steps": 20}), *values)[1]
    assert "downsampled" in strip and "merged" not in strip


def test_the_estimate_is_of_the_whole_picture(host):
    from lib_accel.webui.accordion import strip as preview

    values = [control.value for control in host.script().controls]
    values[1] = "Fast"

    def gain(**sizes):
        badge = re.sub("<.*?>", "", preview.show(json.dumps({"steps": 20, "guidance": 7, **sizes}), *values)[0])
        found = re.fullmatch(r"off · Fast(?: would be about ([\d.]+)x as fast| · not faster here)", badge)
        return float(found[1] or 1)

    small, large = gain(width=64, height=64), gain(width=1536, height=1536)
    assert 1 < small < large < 5
    # At that size only guidance saves anything; at CFG scale 7 and of few steps nothing does.
    assert gain(width=64, height=64, steps=8) == 1
    assert small < gain(width=512, height=512, hires=3) < large + 0.5
    without_steps = gain(width=1536, height=1536, hires=1.5, hires_steps=40, sampler="LCM")
    assert 1 < without_steps < 2.5


def test_a_switch_that_is_off_reads_as_a_condition(host):
    from lib_accel.webui.accordion import strip as preview

    values = [control.value for control in host.script().controls]
    off, on = (
        re.sub("<.*?>", "", preview.show(json.dumps({"width": 1024, "height": 1024, "steps": 20}), enabled, *values[1:])[0])
        for enabled in (False, True)
    )
    assert re.fullmatch(r"off · Balanced would be about \d\.\dx as fast", off)
    assert re.fullmatch(r"Balanced · about \d\.\dx as fast", on)


@pytest.mark.parametrize(
    ("sizes", "cells"),
    [
        ({}, [("first pass 512x512", 20)]),
        ({"hires": 2, "hires_steps": 7}, [("first pass 512x512", 20), ("hires pass 1024x1024", 7)]),
        ({"hires": 2, "hires_width": 768}, [("first pass 512x512", 20), ("hires pass 768x768", 20)]),
        ({"hires": 2, "width": 256, "hires_width": 640, "hires_height": 960}, [("first pass 256x512", 20), ("hires pass 640x960", 20)]),
        # Forge Neo rounds to 64 pixels; what it shows stands.
        ({"hires": 1.5, "hires_size": "768x832"}, [("first pass 512x512", 20), ("hires pass 768x832", 20)]),
        # img2img runs a part of its steps, and "Resize by" makes its size.
        ({"denoising": 0.5}, [("first pass 512x512", 11)]),
        ({"denoising": 1, "size": "768x640"}, [("first pass 768x640", 20)]),
        ({"denoising": 0, "size": "nothing"}, [("first pass 512x512", 20)]),
    ],
)
def test_the_strip_is_of_the_passes_that_will_run(host, sizes, cells):
    from lib_accel.webui.accordion import strip as preview

    values = [control.value for control in host.script().controls]
    html = preview.show(json.dumps({"width": 512, "height": 512, "steps": 20, **sizes}), *values)[1]
    passes = html.split('<div class="accel-pass">')[1:]
    assert [(re.sub("<.*?>", "", one).split(",")[0], one.count("<i ")) for one in passes] == cells


def test_img2img_runs_all_steps_where_the_host_says_so(host):
    from lib_accel.webui.accordion import asked

    told = json.dumps({"width": 512, "height": 512, "steps": 20, "denoising": 0.5})
    assert asked.read(told).passes[0].steps == 11
    host.shared.opts.img2img_fix_steps = True
    assert asked.read(told).passes[0].steps == 20


def test_the_sentence_is_of_what_acts(host):
    from lib_accel.webui.accordion import strip as preview

    values = dict(zip(KNOBS, (control.value for control in host.script().controls)))

    def sentence(steps=20, **changes):
        return preview.show(json.dumps({"width": 512, "height": 512, "steps": steps}), *{**values, **changes}.values())[2]

    assert sentence() == preview.sentence_of("balanced")
    assert sentence(**{"merging.ratio": 0.11}) == preview.sentence_of("custom")
    # What the knobs show is for more steps.
    assert "few steps" in sentence(steps=8) and "Downsampling" in sentence(steps=8) and "Guidance" not in sentence(steps=8)
    # By the name on the page.
    assert sentence(**{"merging.ratio": 7}).startswith("Merging: ratio is 7")
