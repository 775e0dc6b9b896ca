"""The host's file of defaults (`ui-config.json`): presets are those of now, and what somebody saved stays."""

from lib_accel.settings.job import METHOD_KNOBS, preset_values
from lib_accel.settings.schema import KNOBS
from lib_accel.webui.accordion import user_presets


def key(name, field="value", tab="txt2img"):
    return f"customscript/accel.py/{tab}/{KNOBS[name].label}/{field}"


def on_page(host, tab="txt2img"):
    """The knobs' properties, as an opened page shows them."""
    page = host.page()
    return {name: page[control.elem_id] for name, control in zip(KNOBS, host.script(tab).controls)}


def values(host, tab="txt2img"):
    return {name: KNOBS[name].read(shown["value"]) for name, shown in on_page(host, tab).items()}


def job_from_page(host):
    # So many steps that nobody takes it for a few-step model.
    return host.job(accel=[True, *[shown["value"] for shown in on_page(host).values()][1:]], steps=11).infotexts[0]


# As an older version filled Balanced, with ranges of its own.
STALE = {
    key("preset"): "Balanced",
    key("agents.on"): True,
    key("merging.on"): False,
    key("merging.ratio"): 0.7,
    key("merging.matching"): "global",
    key("merging.ratio", "maximum"): 0.8,
    key("agents.sx", "minimum"): 2,
    key("auto"): False,
}


def test_a_first_start_stores_what_the_page_shows(host):
    assert host.defaults[key("preset")] == "Balanced" and host.defaults[key("downsampling.start", tab="img2img")] == 0.4
    stored = {name: host.defaults[key(name)] for name in KNOBS if name != "enabled"}
    assert {name: KNOBS[name].read(value) for name, value in stored.items()} == {n: v for n, v in values(host).items() if n != "enabled"}


def test_a_retuned_preset_reaches_the_page_and_the_job(start):
    host = start(defaults=STALE)
    assert host.script().controls[list(KNOBS).index("merging.ratio")].value == 0.7
    shown = values(host)
    assert shown.items() >= preset_values("balanced", "sd1").items()
    told = job_from_page(host)
    assert "Accel: Balanced" in told and "Accel forecast level: fast" in told and "Accel agents" not in told
    # What no preset fills is a default like any other.
    assert shown["auto"] is False


def test_a_stored_range_does_not_outlive_ours(start):
    shown = on_page(start(defaults=STALE))
    assert shown["merging.ratio"]["maximum"] == KNOBS["merging.ratio"].rule["high"]
    assert shown["agents.sx"]["minimum"] == KNOBS["agents.sx"].rule["low"]


def test_custom_and_its_knobs_stay_as_they_were_saved(start):
    host = start(defaults={**STALE, key("preset"): "Custom"})
    shown = values(host)
    assert (shown["preset"], shown["agents.on"], shown["merging.on"], shown["merging.ratio"]) == ("Custom", True, False, 0.7)
    told = job_from_page(host)
    assert "Accel: Custom" in told and "Accel agents: True" in told


def test_another_preset_as_default(start):
    host = start(defaults={key("preset"): "Fast"})
    shown = on_page(host)
    assert values(host).items() >= preset_values("fast", "sd1").items()
    assert shown["preset"]["value"] == "Fast"
    assert "Accel: Fast" in job_from_page(host)
    assert values(host, "img2img").items() >= preset_values("balanced", "sd1").items()


def test_a_preset_of_ones_own_as_default_with_everything_in_it(start, tmp_path):
    host = start()
    user_presets.save("mine", {"merging.on": True, "merging.ratio": 0.33, "hires.profile": "off"})
    host = start(defaults={key("preset"): "mine", key("merging.ratio"): 0.1, key("hires.profile"): "same"})
    shown = values(host)
    assert (shown["preset"], shown["merging.ratio"], shown["hires.profile"], shown["guidance.on"]) == ("mine", 0.33, "off", False)
    assert "Accel: mine" in job_from_page(host)


def test_a_preset_that_is_gone_is_not_shown(start):
    host = start(defaults={key("preset"): "was mine"})
    assert values(host)["preset"] == "Balanced"


def test_the_page_shows_the_preset_for_the_model_that_is_loaded(start):
    host = start(defaults={key("preset"): "Draft"})
    host.sd_models.switch_to(host.model(kind="sdxl", context_dim=2048))
    shown = values(host)
    knob = "downsampling.deeper_factor"
    assert shown[knob] == preset_values("draft", "sdxl")[knob] != preset_values("draft", "sd1")[knob]


def test_knobs_can_be_saved_as_defaults(host):
    assert all(key(name) in host.defaults for name in METHOD_KNOBS)
