"""The page that people see: a real WebUI in a real browser. Skipped without A1111_ROOT, the package playwright or a Chromium."""

import re

import numpy as np
import pytest
from real_browser import missing

from lib_accel.settings.infotext import to_infotext
from lib_accel.settings.job import Settings
from lib_accel.settings.schema import KNOBS

pytestmark = [pytest.mark.host, pytest.mark.skipif(missing() is not None, reason=missing() or "")]


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_the_accordion_opens(page, tab):
    page.tab(tab)
    preset, badge, strip = (page.of(name, tab) for name in ("preset", "badge", "strip"))
    assert not page.at.locator(preset).is_visible() and page.text(badge).startswith("off · Balanced · estimate: ")
    page.number(f"#{tab}_steps", 12)
    page.unfold("enabled", tab)
    page.at.locator(preset).wait_for(state="visible")
    assert page.at.locator(f"{page.of('enabled', tab)}-visible-checkbox").is_checked() and page.values(tab)["enabled"]
    said = page.until(lambda: re.fullmatch(r"Balanced · estimate: (\d+) % less time per picture", page.text(badge)), "a header that is on")
    assert 0 < int(said[1]) < 90
    page.until(lambda: page.at.locator(f"{strip} i").count() == 12, "twelve steps in the strip")
    assert "first pass 512x512" in page.text(strip)
    page.number(f"#{tab}_width", 640)
    page.until(lambda: "first pass 640x512" in page.text(strip), "another width in the strip")
    for fold in ("whole", "agents", "merging", "stages", "own"):
        inside = {"whole": "auto", "stages": "agents.start", "own": "own_name", "merging": "merging.ratio"}.get(fold, "agents.ratio")
        assert not page.at.locator(page.of(inside, tab)).is_visible()
        page.unfold(f"fold_{fold}", tab)
        page.at.locator(page.of(inside, tab)).wait_for(state="visible")
    # What is on in one tab is off in the other.
    assert not page.values({"txt2img": "img2img", "img2img": "txt2img"}[tab])["enabled"]


def test_a_preset_changes_values(page):
    page.unfold("enabled")
    told = {}
    for preset in ("Fast", "Quality", "Balanced"):
        page.choose(preset)
        values = page.fills(preset)
        page.until(lambda name=preset: page.text(page.of("badge")).startswith(name), "the preset in the header")
        told[preset] = (page.text(page.of("sentence")), page.text(page.of("badge")), str(values))
    assert all(len(set(of_all)) == 3 for of_all in zip(*told.values()))
    page.unfold("fold_merging")
    before = page.values()
    page.number(page.of("merging.ratio"), 0.15)
    page.shows({**before, "preset": "Custom", "merging.ratio": 0.15})
    page.until(lambda: page.text(page.of("badge")).startswith("Custom"), "Custom in the header")


def test_generate_yields_a_picture_and_the_account_line(page):
    page.switch_on("Fast")
    page.prompt("a red star")
    picture = page.generate(steps=4, size=128)
    assert picture.shape == (128, 128, 3) and picture.std() > 0
    assert page.at.locator("#txt2img_gallery img").first.is_visible()
    log = page.at.locator("#html_log_txt2img .comments").first
    assert log.is_visible() and re.search(r"Accel Fast: .*\d+ steps, \d+ U-Net calls", log.inner_text())
    assert "Accel: Fast" in page.text("#html_info_txt2img")
    line = page.webui.get("/accel/v1/report")[1]["report"]["line"]
    assert line in log.inner_text() and " layers for " in line


def other(name, shown):
    """Another value of a setting than the one that is ``shown``."""
    knob = KNOBS[name]
    if knob.kind == "flag":
        return not shown
    if knob.kind == "choice":
        return next(text for text in knob.texts if text != shown)
    if knob.kind == "integer":
        return shown + 1 if knob.rule["high"] is None or shown < knob.rule["high"] else shown - 1
    # Windows stay windows.
    first, second = (0.15, 0.2) if name.endswith(".start") else (0.7, 0.8)
    low, high = knob.rule["low"], knob.rule["high"]
    first, second = (first, second) if high is not None and low <= first and second <= high else (low + 1.5, low + 2.5)
    return second if shown == first else first


def test_pasted_png_info_restores_every_setting(fresh):
    page = fresh()
    shown = page.values()
    expected = {"enabled": True, "preset": "Custom"}
    expected |= {name: other(name, shown[name]) for name in KNOBS if name not in expected}
    if expected["guidance.sigma_low"] >= expected["guidance.sigma_high"]:
        expected["guidance.sigma_high"] = expected["guidance.sigma_low"] + 3.5
    told = ", ".join(f"{key}: {value}" for key, value in to_infotext(Settings(expected)).items())
    page.paste(f"a star\nSteps: 2, Sampler: Euler a, CFG scale: 5, Seed: 1, Size: 64x64, {told}")
    assert all(shown[name] != value for name, value in expected.items())
    page.shows(expected)
    page.until(lambda: page.at.locator(page.of("preset")).is_visible(), "an accordion that is open")
    # What the job writes is as good as what was written here.
    page.generate()
    page = fresh()
    page.shows(shown)
    page.paste("")
    page.shows(expected)
    page.paste("a dog\nSteps: 2, Sampler: Euler a, CFG scale: 5, Seed: 1, Size: 64x64")
    page.shows({"enabled": False})
    assert not page.at.locator(f"{page.of('enabled')}-visible-checkbox").is_checked()


def test_a_plot_over_two_of_our_axes_comes_out_labelled(page):
    page.switch_on("Balanced")
    page.prompt("a red star")
    cells, above, beside = page.plot()
    # Ink beside every row and above every column, each its own.
    for labels in (above, beside):
        assert all(label.size and label.min() < 100 and label.max() == 255 for label in labels)
        assert len({label.tobytes() for label in labels}) == len(labels)
    off = [cells[1, column] for column in range(3)]
    assert np.array_equal(off[0], off[1]) and np.array_equal(off[0], off[2])
    assert not np.array_equal(cells[0, 2], off[2])
    assert "X Type: [Accel] Preset" in page.written and "Y Type: [Accel] On" in page.written
