"""Axes of the X/Y/Z plot on a form whose switches say otherwise: none is without effect."""

import re

import pytest
from harness import pixels

from lib_accel.settings.job import METHOD_KNOBS, preset_values, resolve
from lib_accel.settings.schema import KNOBS


def form(host, **changes):
    """The values that the accordion sends when its knobs were changed so."""
    values = dict(zip(KNOBS, (control.value for control in host.script().controls)))
    return tuple({**values, **{name.replace("__", "."): value for name, value in changes.items()}}.values())


def run_by(args, axes):
    """The settings of a cell of the grid."""
    from lib_accel.webui.accordion import user_presets
    from lib_accel.webui.jobs import job

    own = user_presets.read()[0]
    return resolve(job.given_by(args, axes, own), "sd1", own)


@pytest.mark.parametrize("preset", ["Custom", "Balanced"])
@pytest.mark.parametrize(
    ("axis", "value", "switch"),
    [
        ("agents.ratio", 0.3, ("agents.on", True)),
        ("tgate.gate", 0.6, ("tgate.on", True)),
        ("hires.merging_ratio", 0.3, ("hires.profile", "own")),
        ("least.merging", 2000, ("auto", True)),
    ],
)
def test_an_axis_switches_on_what_it_needs(host, preset, axis, value, switch):
    name, wanted = switch
    args = form(host, preset=preset, **{name.replace(".", "__"): {True: False, "own": "same"}[wanted]})
    ran = run_by(args, {axis: value})
    assert (ran["enabled"], ran[axis], ran[name]) == (True, value, wanted)


def test_a_switch_that_is_an_axis_itself_is_what_it_says(host):
    ran = run_by(form(host), {"agents.ratio": 0.3, "agents.on": "False", "hires.profile": "off", "hires.gate": 0.5})
    assert not ran["agents.on"] and ran["hires.profile"] == "off"


def test_custom_as_an_axis_are_the_knobs_as_shown(host):
    args = form(host, preset="Fast", merging__on=True, merging__ratio=0.11)
    custom, quality = (run_by(args, {"preset": name}) for name in ("Custom", "Quality"))
    assert (custom["preset"], custom["merging.on"], custom["merging.ratio"]) == ("custom", True, 0.11)
    assert quality["preset"] == "quality" and not quality["merging.on"]
    untouched = run_by(form(host), {"preset": "custom"})
    assert {name: untouched[name] for name in METHOD_KNOBS} == preset_values("balanced", "sd1")


def test_an_own_preset_as_an_axis_brings_all_that_was_saved(host):
    from lib_accel.webui.accordion import user_presets

    user_presets.save("mine", {"merging.on": True, "hires.profile": "off", "auto": False})
    user_presets.save("other", {"merging.on": True, "merging.ratio": 0.3})
    args = form(host, preset="Custom", first_pass=False, hires__profile="own")
    mine, other = (run_by(args, {"preset": name}) for name in ("mine", "other"))
    assert [mine[name] for name in ("preset", "first_pass", "auto", "hires.profile")] == ["mine", True, False, "off"]
    assert [other[name] for name in ("preset", "first_pass", "auto", "hires.profile")] == ["other", True, True, "same"]


def test_off_as_a_preset_is_a_cell_without_accel_whatever_the_other_axis_sets(host):
    args = form(host, enabled=True)
    assert not run_by(args, {"preset": "Off"})["enabled"] and not run_by(args, {"merging.ratio": 0.3, "preset": "off"})["enabled"]
    assert run_by(args, {"preset": "Fast"})["enabled"]
    plain = host.job()
    grid = host.grid("[Accel] Preset", "Off, Fast", accel={"preset": "Custom", "merging.ratio": 0.5, "auto": False})
    first, second = pixels(grid)[-2:]
    assert (first == pixels(plain)[0]).all() and not (second == first).all()
    assert "Accel" not in grid.infotexts[-2]


def test_every_cell_is_told_below_the_grid(host):
    told = host.grid("[Accel] Preset", "Off, Fast", "[Accel] Only where it pays", "True, False").comments.splitlines()[0]
    cells = re.findall(r"(Off|Fast), Only where it pays (True|False) [\d.]+ s( \([\d.]+x est.\))?", told)
    assert [(name, value, bool(gain)) for name, value, gain in cells] == [
        ("Off", "True", False),
        ("Fast", "True", True),
        ("Off", "False", False),
        ("Fast", "False", True),
    ]
    # The host shows the line of the first cell below; Off has none.
    assert "first cell" not in told
    # A job of its own is no cell.
    assert "cells" not in host.job(accel={"preset": "Fast"}).comments


def test_a_plot_without_accel_is_told_nothing(host):
    assert host.grid("Steps", "3, 4").comments == ""
    # One that was compared with it is.
    assert "cells in the order of drawing: Off" in host.grid("[Accel] Preset", "Off, Off").comments
    assert "Balanced" in host.grid("Steps", "3, 4", accel=[True]).comments.splitlines()[0]


@pytest.mark.parametrize(
    ("axis", "value", "allowed"),
    [
        ("T-GATE: gate", "2", "a number from 0.01 to 1"),
        ("T-GATE: gate", "abc", "a number from 0.01 to 1"),
        ("Merging: cell width", "1.5", "a whole number from 1 to 64"),
        ("Preset", "turbo", "one of Off, Quality"),
    ],
)
def test_axes_are_refused_by_the_names_that_people_chose(host, axis, value, allowed):
    with pytest.raises(RuntimeError) as told:
        host.grid(f"[Accel] {axis}", value)
    assert str(told.value).startswith(f"[Accel] {axis} is ") and value in str(told.value) and allowed in str(told.value)


def test_a_host_without_a_page_has_the_axes_too(host, monkeypatch):
    """With --nowebui the API asks the host's plot for its axes before anybody is told that a page will be built."""
    monkeypatch.setattr(host.callbacks, "dispatch", lambda moment, *given: None)
    host.start()
    labels = [option.label for option in host.script(title="X/Y/Z plot").current_axis_options]
    assert labels.count("[Accel] Preset") == 1
    assert "cells in the order of drawing: Off" in host.grid("[Accel] Preset", "Off, Fast", steps=2).comments


def test_the_host_knows_ranges_of_our_axes(host):
    kinds = {option.label: option.type for option in host.module("X/Y/Z plot").axis_options}
    assert kinds["[Accel] Merging: ratio"] == float and kinds["[Accel] Merging: cell width"] == int  # noqa: E721 - as the host asks
    assert kinds["[Accel] Merging: ratio"]("0.25") == 0.25


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.5-1 (+0.1)", [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ("0.1-0.5 (+0.2), 0.75", [0.1, 0.3, 0.5, 0.75]),
        ("1-0.7 (-0.1)", [1.0, 0.9, 0.8, 0.7]),
        ("0.2-0.8 [3]", [0.2, 0.5, 0.8]),
        ("0.3", [0.3]),
    ],
)
def test_a_range_ends_where_it_says(host, text, values):
    # The host's own goes on to 1.0999999999999999, which would be refused, and has 0.30000000000000004.
    told = host.grid("[Accel] T-GATE: gate", text, steps=2).infotexts
    assert [float(re.search(r"T-GATE gate: ([^,]+)", info, re.IGNORECASE)[1]) for info in told] == values


@pytest.mark.parametrize("text", ["0.5-2 (+0.5)", "0.5-1 (+0)", "1-0.5 (+0.1), 3", "0.1-0.5 (+0.0000001), 3"])
def test_ranges_out_of_bounds_are_refused(host, text):
    with pytest.raises((RuntimeError, ValueError, ZeroDivisionError)):
        host.grid("[Accel] T-GATE: gate", text, steps=2)


def test_every_axis_names_itself_and_what_it_takes(host):
    options = {option.label: option for option in host.module("X/Y/Z plot").axis_options}
    for knob in KNOBS.values():
        option = options["[Accel] " + ("On" if knob.name == "enabled" else knob.label)]
        with pytest.raises(RuntimeError) as told:
            option.confirm(None, [option.type("abc")])
        assert str(told.value).startswith(f"{option.label} is 'abc'; it must be "), knob.name
