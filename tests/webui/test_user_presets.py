"""The user's own presets: kept, replaced, deleted; a broken file costs nothing but itself."""

import json

import pytest

from lib_accel.settings import SettingError


@pytest.fixture
def presets(host):
    from lib_accel.webui import user_presets

    return user_presets


def test_saved_presets_can_be_chosen_everywhere(host, presets):
    presets.save("my preset", {"merging.on": True, "merging.ratio": 0.25, "auto": False})
    done = host.job(accel={"preset": "my preset"})
    assert "Accel my preset: TokenMerging: merging on 3 of 7 layers" in done.comments
    assert "Accel: my preset" in done.infotexts[0]
    host.reload()
    choices = [c[0] if isinstance(c, tuple) else c for c in host.script().controls[1].choices]
    assert choices == ["Quality", "Balanced", "Fast", "Custom", "my preset"]
    grid = host.grid("[Accel] Preset", "my preset, Fast")
    assert "Accel: my preset" in grid.infotexts[0] and "Accel: Fast" in grid.infotexts[1]


def test_a_picture_made_with_a_preset_that_is_gone_replays_as_custom(host, presets):
    from modules.infotext_utils import pasted

    presets.save("mine", {"merging.on": True, "merging.ratio": 0.25, "auto": False})
    done = host.job(accel={"preset": "mine"})
    presets.delete("mine")
    controls = host.script().controls
    values = pasted(host.runners["txt2img"].infotext_fields, done.infotexts[0])
    assert values[controls[1]] == "Custom"


@pytest.mark.parametrize("name", ["", " ", "Fast", "custom", "Accel", "refused", "2x2", "a:b", "a,b", "<b>", "x" * 41, "a\nb", None, 3])
def test_names_that_png_info_could_not_carry(presets, name):
    with pytest.raises(SettingError):
        presets.save(name, {})


def test_nothing_bad_is_kept(presets):
    with pytest.raises(SettingError):
        presets.save("mine", {"agents.ratio": 7})
    assert presets.read() == ({}, None)
    with pytest.raises(SettingError):
        presets.delete("mine")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 1, "presets": 3}', "null", "\x00", "[" * 100000])
def test_a_broken_file_is_put_aside_and_reported(host, presets, text):
    presets.path().write_text(text)
    found, complaint = presets.read()
    assert found == {}
    assert "was broken" in complaint
    assert presets.path().with_suffix(".broken.json").read_text() == text
    presets.save("mine", {"auto": False})
    assert list(presets.read()[0]) == ["mine"]


def test_a_broken_file_is_told_under_the_picture(host, presets):
    presets.path().write_bytes(b"\xff\xfe\xfa")
    done = host.job(accel={"preset": "Fast", "auto": False})
    assert "accel-presets.json was broken" in done.comments
    assert "accel-presets.json" not in host.job(accel={"preset": "Fast", "auto": False}).comments


def test_a_preset_that_is_not_understood_leaves_the_others(presets):
    kept = {"good": {"auto": "False"}, "bad": {"agents.ratio": "much"}, "worse": 3, "<b>": {}}
    presets.path().write_text(json.dumps({"version": 1, "presets": kept}))
    found, complaint = presets.read()
    assert found == {"good": {"auto": False}}
    assert "bad, worse, <b>" in complaint


def test_a_newer_file_is_left_as_it_is(presets):
    text = json.dumps({"version": 2, "presets": {}})
    presets.path().write_text(text)
    assert "version 2" in presets.read()[1]
    with pytest.raises(SettingError, match="version 2"):
        presets.save("mine", {})
    assert presets.path().read_text() == text
