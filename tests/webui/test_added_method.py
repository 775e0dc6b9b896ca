"""A method is one file and one line: the toy of docs/adding-a-method.md in the host double."""

import json

import adding
import pytest
from acting import did
from harness import Host, same


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    with adding.added_toy(tmp_path_factory.mktemp("methods")) as made:
        yield made


@pytest.fixture(scope="module")
def host(toy, tmp_path_factory):
    started = Host(tmp_path_factory.mktemp("host"))
    yield started
    started.stop()


TOY = {"enabled": True, "preset": "Custom", "auto": False, "toy.x": 2}


def test_the_accordion(host):
    labels = [control.label for control in host.script().controls]
    assert labels[-4:] == ["Toy", "Toy: count by", "Toy: start", "Toy: end"]
    ids = {block.elem_id for block in host.demo.blocks.values()}
    assert {"script_txt2img_accel_toy_x", "script_img2img_accel_fold_toy"} <= ids


def test_a_job_runs_it_and_says_so(host):
    done = host.job(accel=TOY)
    assert (
        did(done, "counted", 7, (5, 5), method="Toy")
        and "Toy: counted on 7" in done.comments
        and "Accel toy count by: 2" in done.infotexts[0]
    )
    assert same(done, host.job())


def test_the_strip(host):
    from lib_accel.settings.schema import KNOBS
    from lib_accel.webui.accordion import strip

    values = {**dict(zip(KNOBS, (control.value for control in host.script().controls))), **TOY, "toy.on": True, "toy.end": 0.5}
    shown = strip.show(json.dumps({"width": 512, "height": 512, "steps": 4}), *values.values())[1]
    assert shown.count("accel-toy") == 2 and "#777777" in shown and "counted" in shown


def test_an_axis(host):
    done = host.grid("[Accel] Toy: count by", "1, 3", accel={**TOY, "toy.x": 2})
    assert [f"Accel toy count by: {x}" in text for x, text in zip((1, 3), done.infotexts[-2:])] == [False, True]
    assert all("Accel toy: True" in text for text in done.infotexts[-2:])


def test_the_schema_of_the_api_and_an_own_preset(host):
    from lib_accel.settings.job import preset_values
    from lib_accel.webui import api
    from lib_accel.webui.accordion import user_presets

    found = {setting["name"]: setting for setting in api.schema()["settings"]}["toy.x"]
    assert (found["kind"], found["default"], found["minimum"], found["maximum"]) == ("integer", 1, 0, 10)
    user_presets.save("counting", {"toy.on": True, "toy.x": 7})
    own = user_presets.read()[0]
    assert own == {"counting": {"toy.on": True, "toy.x": 7}} and preset_values("counting", "sd1", own)["toy.x"] == 7
    assert "Accel toy count by: 7" in host.job(accel={"preset": "counting"}).infotexts[0]
