"""The user's own presets: kept, replaced, deleted; a broken file costs nothing but itself."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from acting import did

from lib_accel.core.fields import SettingError
from lib_accel.settings.schema import KNOBS


@pytest.fixture
def presets(host):
    from lib_accel.webui.accordion import user_presets

    return user_presets


def test_saved_presets_can_be_chosen_everywhere(host, presets):
    presets.save("my preset", {"merging.on": True, "merging.ratio": 0.25, "auto": False})
    done = host.job(accel={"preset": "my preset"})
    assert "Accel my preset: " in done.comments and did(done, "merging", 3)
    assert "Accel: my preset" in done.infotexts[0]
    host.reload()
    choices = [c[0] if isinstance(c, tuple) else c for c in host.script().controls[1].choices]
    assert choices == ["Quality", "Balanced", "Fast", "Draft", "Custom", "my preset"]
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


def test_a_file_that_was_edited_on_windows_is_read(presets):
    presets.path().write_text(json.dumps({"version": 1, "presets": {"mine": {"auto": False}}}), encoding="utf-8-sig")
    assert presets.read() == ({"mine": {"auto": False}}, None)


def test_every_broken_file_is_kept(presets):
    for text in ("{", "[", ""):
        presets.path().write_text(text)
        presets.read()
    asides = [presets.path().with_suffix(f".broken{number}.json") for number in ("", "-2", "-3")]
    assert [aside.read_text() for aside in asides] == ["{", "[", ""]


def test_presets_saved_and_deleted_at_the_same_time(presets):
    def change(number):
        presets.save(f"kept {number}", {"merging.ratio": number / 100})
        presets.save(f"gone {number}", {})
        presets.delete(f"gone {number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(24)))
    assert presets.read() == ({f"kept {n}": {"merging.ratio": n / 100} for n in range(24)}, None)
    assert [file.name for file in presets.path().parent.glob("accel-presets*")] == ["accel-presets.json"]


def test_a_preset_brings_back_all_that_was_saved(host, presets):
    presets.save("hires off", {"merging.on": True, "hires.profile": "off", "first_pass": False, "least.merging": 900})
    presets.save("plain", {"merging.on": True})
    from lib_accel.webui.accordion import filling

    def filled(name):
        updates = filling.fill(name)
        return dict(zip([knob for knob in KNOBS if knob not in ("enabled", "preset")], (update.get("value") for update in updates)))

    assert filled("hires off").items() >= {"hires.profile": "off", "first_pass": False, "least.merging": 900}.items()
    assert filled("plain").items() >= {"hires.profile": "same", "first_pass": True, "least.merging": 0, "auto": True}.items()
    # What no preset of ours fills stays on the page as it is.
    assert filled("Fast")["hires.profile"] is None


def test_saving_and_deleting_on_the_page(host, presets):
    from lib_accel.webui.accordion import filling

    values = [control.value for control in host.script().controls]
    preset, said = filling.save(" mine ", *values)
    assert preset["value"] == "mine" and preset["choices"][-1] == "mine" and said.startswith("Saved.")
    preset, said = filling.save("<img src=x onerror=alert(1)>", *values)
    assert "value" not in preset and "<" not in said and "&#60;img" in said
    preset, said = filling.delete("<b>", "mine")
    assert "value" not in preset and "<" not in said
    filling.save("other", *values)
    assert filling.delete("other", "Fast")[0]["value"] == "Fast"
    preset, said = filling.delete("mine", "mine")
    assert (preset["value"], preset["choices"][-1], said) == ("Custom", "Custom", "Deleted.")


def test_paste_knows_an_own_preset_by_all_that_was_saved(host, presets):
    from modules.infotext_utils import pasted

    presets.save("plain", {"merging.on": True})
    info = host.job(accel={"preset": "plain"}, enable_hr=True).infotexts[0]
    assert "Accel least tokens merging from: " in info
    controls = host.script().controls

    def preset_of(text):
        return pasted(host.runners["txt2img"].infotext_fields, text)[controls[1]]

    assert preset_of(info) == "plain"
    assert preset_of(f"{info}, Accel hires pass profile: off") == "Custom"


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
    presets.save("mine", {"merging.ratio": 0.3})
    assert set(presets.read()[0]) == {"good", "mine"} and presets.read()[1] == complaint
    assert json.loads(presets.path().read_text())["presets"].items() >= kept.items()
    for name in ("bad", "worse", "<b>"):
        presets.delete(name)
    assert presets.read() == ({"good": {"auto": False}, "mine": {"merging.ratio": 0.3}}, None)


def test_a_newer_file_is_left_as_it_is(presets):
    text = json.dumps({"version": 2, "presets": {}})
    presets.path().write_text(text)
    assert "version 2" in presets.read()[1]
    with pytest.raises(SettingError, match="version 2"):
        presets.save("mine", {})
    assert presets.path().read_text() == text
