"""One table of settings: the accordion, positional arguments, PNG info, paste, axes, presets and the schema say the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_accel.core.fields import SettingError
from lib_accel.settings.infotext import KEYS, from_infotext, to_infotext
from lib_accel.settings.job import METHOD_KNOBS, Settings, matching_preset, preset_values, resolve, without_untouched
from lib_accel.settings.model_families import FAMILIES
from lib_accel.settings.presets import PRESETS
from lib_accel.settings.schema import KNOBS


def test_controls_stand_in_the_order_of_the_table_and_say_what_it_says(host):
    for tab in ("txt2img", "img2img"):
        script = host.script(tab)
        assert [control.label for control in script.controls] == [knob.label for knob in KNOBS.values()]
        for control, (name, knob) in zip(script.controls, KNOBS.items()):
            assert control.value is not None
            json.dumps(control.value)
            expected = {**Settings(), **preset_values("balanced", "sd1")}[name]
            assert knob.read(control.value) == (expected.title() if name == "preset" else expected)
            if knob.kind in ("number", "integer"):
                # Of fields without a slider gradio would refuse the whole job for a number below it.
                assert getattr(control, "minimum", None) == (None if knob.rule["high"] is None else knob.rule["low"])
                assert getattr(control, "maximum", None) == knob.rule["high"]
            if knob.texts:
                assert tuple(c[0] if isinstance(c, tuple) else c for c in control.choices) == knob.texts
            assert name == "enabled" or control.info == knob.hint
    labels = [knob.label for knob in KNOBS.values()]
    assert len(set(labels)) == len(labels)
    assert all(knob.hint.strip() and "\n" not in knob.hint for knob in KNOBS.values())


def test_element_ids_are_of_one_tab(host):
    ids = [control.elem_id for tab in ("txt2img", "img2img") for control in host.script(tab).controls]
    assert len(set(ids)) == len(ids)
    assert "script_txt2img_accel_enabled-checkbox" in ids and "script_img2img_accel_agents_ratio" in ids


def test_fields_that_send_to_copies_are_alike_in_both_tabs(host):
    one, other = (host.script(tab).infotext_fields for tab in ("txt2img", "img2img"))
    names = host.script().paste_field_names
    assert [target for _, target in one if target in names] == [target for _, target in other if target in names]
    assert len([target for _, target in one if target in names]) == len(KNOBS)


def test_keys_of_png_info_survive_the_hosts_parser():
    for key in KEYS:
        assert key.replace(" ", "").replace("-", "").isalnum() and key.startswith("Accel ")
    assert len(KEYS) == len(KNOBS) - 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_png_info(host, preset, family):
    from modules.infotext_utils import parse_generation_parameters, quote

    settings = resolve({"enabled": True, "preset": preset.title()}, family)
    text = "a cat\nSteps: 5, Sampler: Euler, Seed: 1, " + ", ".join(f"{k}: {quote(v)}" for k, v in to_infotext(settings).items())
    assert from_infotext(parse_generation_parameters(text)) == settings


VALUES = {
    "flag": lambda knob: st.booleans(),
    "number": lambda knob: st.floats(knob.rule["low"], knob.rule["high"] or 9.0),
    "integer": lambda knob: st.integers(knob.rule["low"], knob.rule["high"] or 10**6),
    "choice": lambda knob: st.sampled_from(knob.rule["choices"]),
}


@given(st.data())
def test_any_settings_survive_png_info_and_words(data):
    names = data.draw(st.sets(st.sampled_from([n for n in KNOBS if n not in ("enabled", "preset")]), max_size=8))
    drawn = {name: data.draw(VALUES[KNOBS[name].kind](KNOBS[name])) for name in names}
    try:
        settings = Settings({"enabled": True, "preset": "custom", **drawn})
    except SettingError as error:
        assert "the start must be before the end" in str(error)
        return
    again = from_infotext(to_infotext(settings))
    assert {**again, "preset": ""} == {**settings, "preset": ""}
    assert Settings({name: KNOBS[name].text(value) for name, value in settings.items()}) == settings


def test_old_pictures_replay_when_presets_were_retuned(monkeypatch):
    info = to_infotext(resolve({"enabled": True, "preset": "fast"}, "sd1"))
    before = from_infotext(info)
    assert before["preset"] == "fast"
    monkeypatch.setitem(PRESETS, "fast", PRESETS["balanced"])
    after = from_infotext(info)
    assert after["preset"] == "custom"
    assert {**after, "preset": ""} == {**before, "preset": ""}


def test_a_knob_that_differs_from_the_preset_makes_it_custom():
    assert resolve({"preset": "fast"}, "sd1")["preset"] == "fast"
    assert resolve({"preset": "fast", "merging.ratio": 0.25}, "sd1")["preset"] == "fast"
    filled = preset_values("fast", "sd1")
    for knob, value in (("merging.ratio", 0.2), ("agents.ratio", 0.2), ("tgate.gate", 0.6)):
        changed = resolve({"preset": "fast", knob: value}, "sd1")
        switch = knob.split(".")[0] + ".on"
        assert (changed["preset"], changed[knob], changed[switch]) == ("custom", value, True)
        assert {**changed, knob: None, switch: None}.items() >= {**filled, knob: None, switch: None}.items()


def test_nothing_is_set_without_effect():
    assert resolve({"preset": "quality", "agents.ratio": 0.2}, "sd1")["agents.on"]
    assert not resolve({"preset": "quality", "agents.ratio": 0.2, "agents.on": False}, "sd1")["agents.on"]
    assert resolve({"hires.agents": True}, "sd1")["hires.profile"] == "own"
    assert resolve({"hires.agents": True, "hires.profile": "same"}, "sd1")["hires.profile"] == "same"


def test_knobs_as_some_preset_filled_them_are_nobodys_choice():
    shown = {**Settings(), **preset_values("balanced", "sd1"), "preset": "Fast"}
    assert not set(without_untouched(shown)) & set(METHOD_KNOBS)
    assert set(METHOD_KNOBS) <= set(without_untouched({**shown, "agents.ratio": 0.123}))
    assert set(METHOD_KNOBS) <= set(without_untouched({**shown, "preset": "Custom"}))
    assert resolve(without_untouched(shown), "sdxl") == resolve({**{k: v for k, v in shown.items() if k not in METHOD_KNOBS}}, "sdxl")


def test_matching_preset_knows_the_users_own():
    own = {"mine": {"agents.on": True, "agents.ratio": 0.33}}
    settings = resolve({"enabled": True, "preset": "mine"}, "sd1", own)
    assert settings["agents.ratio"] == 0.33
    assert matching_preset(settings, "mine", own) == "mine"
    assert matching_preset(settings, "mine", {}) == "custom"


@pytest.mark.parametrize("name", KNOBS)
def test_every_axis_sets_what_it_says(host, name):
    from lib_accel.webui import axes
    from lib_accel.webui.jobs import job

    knob = KNOBS[name]
    module = host.module("X/Y/Z plot")
    option = next(o for o in module.axis_options if o.label == axes.label_of(knob))
    words = (
        "0.2"
        if name.endswith(".start")
        else {"flag": "True", "name": "Fast"}.get(knob.kind) or (knob.texts[-1] if knob.texts else str(knob.rule["high"] or 3))
    )
    value = option.type(words)
    option.confirm(None, [value])
    p = host.p()
    option.apply(p, value, [value])
    settings = resolve(job.given_by(tuple(p.script_args[host.script().args_from :]), p.accel_axes, {}), "sd1")
    assert settings["enabled"] or name == "enabled"
    assert settings[name] == (knob.read(value).lower() if knob.kind == "name" else knob.read(value))


def test_axes_come_once_in_a_stable_order_also_after_reloads(host):
    from lib_accel.webui import axes

    for _ in range(2):
        labels = [o.label for o in host.module("X/Y/Z plot").axis_options if o.label.startswith("[Accel]")]
        assert labels == [axes.label_of(knob) for knob in KNOBS.values()]
        host.reload()


@pytest.mark.parametrize(("name", "value"), [("agents.ratio", 1.5), ("agents.plan", "sideways"), ("preset", "turbo"), ("enabled", "maybe")])
def test_axes_refuse_what_cannot_be(host, name, value):
    from lib_accel.webui import axes

    option = next(o for o in host.module("X/Y/Z plot").axis_options if o.label == axes.label_of(KNOBS[name]))
    with pytest.raises((SettingError, RuntimeError)):
        option.confirm(None, [value])


def test_schema_and_report_routes(host):
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    app = FastAPI()
    host.callbacks.dispatch("app_started", host.demo, app)
    client = TestClient(app)
    assert [s["name"] for s in client.get("/accel/v1/schema").json()["settings"]] == list(KNOBS)
    assert client.get("/accel/v1/report").json() == {"report": None}
    host.job(accel={"preset": "Custom", "merging.on": True, "auto": False})
    told = client.get("/accel/v1/report")
    assert "merging on 3 of 7 layers" in told.json()["report"]["line"]
    assert "red cat" not in told.text


def test_routes_carry_the_hosts_password(host):
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    host.shared.cmd_opts.api_auth = "me:secret,you:other:word"
    app = FastAPI()
    host.callbacks.dispatch("app_started", host.demo, app)
    client = TestClient(app)
    for route in ("/accel/v1/schema", "/accel/v1/report"):
        assert client.get(route).status_code == 401
        assert client.get(route, auth=("me", "wrong")).status_code == 401
        assert client.get(route, auth=("you", "other:word")).status_code == 200
    host.shared.cmd_opts.api_auth = None
    app = FastAPI()
    app.auth, app.tokens = {"me": "secret"}, {"abc": "me"}
    host.callbacks.dispatch("app_started", host.demo, app)
    assert TestClient(app).get("/accel/v1/schema").status_code == 401
    # The last is gradio 4's, with an id of the page.
    for name in ("access-token", "access-token-unsecure", "access-token-Zt4q-x"):
        assert TestClient(app, cookies={name: "abc"}).get("/accel/v1/schema").status_code == 200
        assert TestClient(app, cookies={name: "abd"}).get("/accel/v1/schema").status_code == 401
    assert TestClient(app, cookies={"token": "abc"}).get("/accel/v1/schema").status_code == 401
