"""What the line under the picture says about what stood down and for what a job was taken."""

import json
import re
from types import SimpleNamespace

import pytest
from harness import same

IDLE = "token reduction off at 128x128: not worth it with this attention kernel"
CUSTOM = {"enabled": True, "preset": "Custom", "merging.ratio": 0.5}


def test_sizes_at_which_nothing_pays(start):
    without = start(extension=False).job(enable_hr=True)
    host = start()
    done = host.job(accel=CUSTOM | {"least.merging": 2000}, enable_hr=True)
    first, hires = done.comments.split("hires pass:")
    assert IDLE in first and "0 of 7 layers [not worth it on 256 tokens, from 2000 on (3 layers)]" in first
    assert IDLE.replace("128x128", "256x256") in hires
    assert same(done, without)
    only_hires = host.job(accel=CUSTOM | {"least.merging": 1000}, enable_hr=True).comments.split("hires pass:")
    assert IDLE in only_hires[0] and "token reduction off" not in only_hires[1]


def test_sizes_at_which_it_pays(host):
    assert "token reduction off" not in host.job(accel=CUSTOM | {"auto": False}).comments


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
        assert "few-step" not in comments and "merging on 3 of 7 layers" in comments
    else:
        assert f"Accel Balanced: taken for a few-step model ({sign});" in comments
        assert "downsampling on 3 of 7 layers" in comments and "merging on" not in comments
    assert "lightning" not in comments
    custom = host.job(accel=CUSTOM | {"auto": False}, **fields).comments
    assert "few-step" not in custom


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

    def percent(**sizes):
        badge = re.sub("<.*?>", "", preview.show(json.dumps({"steps": 20, "guidance": 7, **sizes}), *values)[0])
        return int(re.fullmatch(r"off · Fast · estimate: (-?\d+) % less time per picture", badge)[1])

    small, large = percent(width=64, height=64), percent(width=1536, height=1536)
    assert 0 < small < large < 80
    # At that size only guidance saves anything; at CFG scale 7 and of few steps nothing does.
    assert percent(width=64, height=64, steps=8) == 0
    assert small < percent(width=512, height=512, hires=3) < large + 10
    without_steps = percent(width=1536, height=1536, hires=1.5, hires_steps=40, sampler="LCM")
    assert 0 < without_steps < 60
