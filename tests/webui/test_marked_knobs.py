"""What the page marks: knobs without effect, knobs that differ from a preset, what presets give, and the steps of the last picture."""

import json
import re
from html import unescape

import pytest
from acting import data_of

from lib_accel.settings.job import Settings, resolve
from lib_accel.settings.schema import KNOBS


@pytest.fixture
def show(host):
    from lib_accel.webui.accordion import strip

    values = dict(zip(KNOBS, (control.value for control in host.script().controls)))

    def shown(told=(), **changes):
        sizes = {"width": 512, "height": 512, "steps": 20, "guidance": 7, "sampler": "Euler", **dict(told)}
        html = strip.show(json.dumps(sizes), *{**values, **changes}.values())[1]
        return html, json.loads(unescape(re.search(r'data-told="(.*?)"', html)[1]))

    return shown


def test_every_preset_tells_what_it_gives_here(show):
    _, small = show({"width": 256, "height": 256})
    _, large = show({"width": 1024, "height": 1024})
    assert list(large["gains"]) == ["Quality", "Balanced", "Fast", "Draft"]
    numbers = [float(gain.removesuffix("x")) for gain in large["gains"].values()]
    assert numbers == sorted(numbers) and float(small["gains"]["Fast"][:-1]) < float(large["gains"]["Fast"][:-1])
    # Samplers that cannot be forecast.
    assert show({"sampler": "Heun"})[1]["gains"]["Draft"] < show()[1]["gains"]["Draft"]


@pytest.mark.parametrize(
    ("sampler", "told"),
    [("Euler", False), ("DPM++ 2M Karras", False), ("Heun", True), ("UniPC", True), ("Sampler of an extension", True), ("", False)],
)
def test_the_strip_says_that_steps_cannot_be_forecast_with_a_sampler(show, sampler, told):
    words = "Steps cannot be forecast with this sampler"
    assert (words in show({"sampler": sampler})[0]) is told
    # What takes their place is told.
    assert (f"{words}; DeepCache is used instead" in show({"sampler": sampler})[0]) is told
    assert (f"{words}, so less is saved" in show({"sampler": sampler}, preset="Custom", **{"deepcache.on": False})[0]) is told
    # Where Forecast is off, or the pass is too short for any sampler, the sampler is not why.
    assert words not in show({"sampler": sampler}, preset="Custom", **{"forecast.on": False})[0]
    assert words not in show({"sampler": sampler, "steps": 4})[0]


@pytest.mark.parametrize(("sampler", "told"), [("Euler", False), ("DPM++ 2M", False), ("Euler a", True), ("ER SDE", True)])
def test_the_strip_says_that_steps_of_a_transformer_cannot_be_forecast_with_a_sampler(show, monkeypatch, sampler, told):
    monkeypatch.setattr("lib_accel.webui.accordion.strip.loaded_family", lambda: "transformer")
    words = "Steps cannot be forecast with this sampler"
    assert (words in show({"sampler": sampler})[0]) is told
    # At a few-step model's number of steps the sampler is not why.
    assert words not in show({"sampler": sampler, "steps": 8})[0]


@pytest.mark.parametrize("shape", ["sd1", "transformer"])
def test_beside_neos_spectrum_nothing_is_said_to_be_saved_that_it_saves(show, monkeypatch, shape):
    monkeypatch.setattr("lib_accel.webui.accordion.strip.loaded_family", lambda: shape)
    html, told = show({"spectrum": True})
    assert "Spectrum is on" in html and "step forecast" not in html and "no negative prompt" not in html
    without, alone = show()
    assert "Spectrum is on" not in without and float(alone["gains"]["Draft"][:-1]) > 1.4
    # On a U-Net methods on tokens act in the calls that it runs.
    assert float(told["gains"].get("Draft", "1x")[:-1]) < 1.3
    assert (shape == "transformer") is (told["gains"] == {})


@pytest.mark.parametrize("option", ["s_min_uncond", "skip_early_cond"])
def test_spectrum_does_nothing_where_the_host_leaves_the_negative_prompt_out_itself(host, show, monkeypatch, option):
    """It then says so on the console, and Forecast acts."""
    monkeypatch.setitem(host.shared.opts.data, option, 0.5)
    html, told = show({"spectrum": True})
    assert "Spectrum is on" not in html and told["gains"] == show()[1]["gains"]


@pytest.mark.parametrize(
    ("given", "idle", "acting"),
    [
        ({}, {"merging.ratio", "tgate.gate", "hires.gate"}, {"merging.on", "hires.profile", "auto", "least.merging"}),
        ({"merging.on": True}, {"merging.radius"}, {"merging.ratio", "merging.start"}),
        ({"merging.on": True, "merging.matching": "local"}, set(), {"merging.radius"}),
        ({"guidance.on": True, "guidance.when": "after"}, {"guidance.threshold", "guidance.sigma_low"}, {"guidance.after"}),
        ({"guidance.on": True, "guidance.when": "outside"}, {"guidance.after"}, {"guidance.sigma_low", "guidance.sigma_high"}),
        ({"forecast.on": True, "forecast.every": 2}, {"forecast.level"}, {"forecast.every"}),
        ({"hires.profile": "own", "auto": False}, {"least.merging"}, {"hires.gate"}),
    ],
)
def test_knobs_without_effect(host, given, idle, acting):
    from lib_accel.webui.accordion.marks import idle_knobs

    found = set(idle_knobs(Settings(given)))
    assert idle <= found and not acting & found


def test_knobs_that_differ_from_the_nearest_preset(host):
    from lib_accel.webui.accordion.marks import changed_knobs

    assert changed_knobs(resolve({"preset": "fast"}, "sd1"), "sd1", {}) == {}
    changed = resolve({"preset": "fast", "merging.ratio": 0.3, "guidance.when": "similar"}, "sd1")
    assert changed_knobs(changed, "sd1", {}) == {"merging.ratio": 0.25, "guidance.when": "after"}
    own = {"mine": {"merging.on": True, "merging.ratio": 0.11}}
    assert changed_knobs(Settings({"preset": "custom", "merging.on": True, "merging.ratio": 0.2}), "sd1", own) == {"merging.ratio": 0.11}
    far = {f"agents.{name}": True for name in ("on", "merge_crossattn", "merge_mlp")} | {"tgate.on": True, "deepcache.on": True}
    far |= {"merging.on": True, "merging.plan_every": 3, "merging.sx": 4, "merging.sy": 4, "merging.ratio": 0.11}
    assert changed_knobs(Settings({"preset": "custom", **far}), "sd1", {}) == {}


def test_after_a_job_the_strip_shows_the_steps_that_ran(host, show):
    assert "accel-ran" not in show({"ran": True})[0]
    done = host.job(accel={"enabled": True, "preset": "Custom", "forecast.on": True, "forecast.every": 2, "auto": False}, steps=12)
    (served,) = {tuple(one["steps"]) for one in data_of(done)["passes"][0]["report"]["methods"][0]["served"]}
    assert served
    assert "accel-ran" not in show()[0]
    cells = re.findall(r'<i class="(.*?)" title="(\d+)/12', show({"ran": True})[0].split("accel-ran")[1])
    assert [int(number) - 1 for name, number in cells if name == "accel-forecast"] == list(served) and len(cells) == 12


def test_own_presets_are_listed_for_the_other_tab_and_nothing_is_deleted_unasked(host):
    from lib_accel.webui.accordion import filling, user_presets

    user_presets.save("mine", {"merging.on": True})
    assert filling.listed()["choices"][-1] == "mine"
    # The page sends no name where somebody was not sure.
    assert filling.delete("", "mine")[1] == "" and "mine" in user_presets.read()[0]
