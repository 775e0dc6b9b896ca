"""The page that people see: a real WebUI in a real browser. Skipped without A1111_ROOT, the package playwright or a Chromium."""

import re

import numpy as np
import pytest
from real_browser import missing

from lib_accel.settings.infotext import to_infotext
from lib_accel.settings.job import Settings, resolve
from lib_accel.settings.schema import KNOBS

pytestmark = [pytest.mark.host, pytest.mark.skipif(missing() is not None, reason=missing() or "")]


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_the_accordion_opens(page, tab):
    page.tab(tab)
    preset, badge, strip = (page.of(name, tab) for name in ("preset", "badge", "strip"))
    assert not page.at.locator(preset).is_visible() and page.text(badge).startswith("off · Balanced")
    page.number(f"#{tab}_steps", 12)
    page.unfold("enabled", tab)
    page.at.locator(preset).wait_for(state="visible")
    assert page.at.locator(f"{page.of('enabled', tab)}-visible-checkbox").is_checked() and page.values(tab)["enabled"]
    said = page.until(lambda: re.fullmatch(r"Balanced · about ([\d.]+)x as fast", page.text(badge)), "a header that is on")
    assert 1 < float(said[1]) < 3
    # Of img2img's steps three quarters are run at its denoising strength.
    run = {"txt2img": 12, "img2img": 10}[tab]
    page.until(lambda: page.at.locator(f"{strip} i").count() == run, "its steps in the strip")
    assert "first pass 512x512" in page.text(strip)
    page.number(f"#{tab}_width", 640)
    page.until(lambda: "first pass 640x512" in page.text(strip), "another width in the strip")
    gain = "label => label.dataset.accelGain"
    page.until(lambda: page.at.locator(f'{preset} label:has(input[value="Fast"])').evaluate(gain), "what Fast would give")
    page.unfold("fold_advanced", tab)
    for fold, inside in (("agents", "agents.ratio"), ("merging", "merging.ratio"), ("own", "own_name"), ("thresholds", "auto")):
        assert not page.at.locator(page.of(inside, tab)).is_visible()
        page.unfold(f"fold_{fold}", tab)
        page.at.locator(page.of(inside, tab)).wait_for(state="visible")
    # What is on in one tab is off in the other.
    assert not page.values({"txt2img": "img2img", "img2img": "txt2img"}[tab])["enabled"]


def test_a_preset_changes_values(page):
    page.unfold("enabled")
    told = {}
    # The last one keeps the guidance direction, so the settings of that have an effect.
    for preset in ("Balanced", "Quality", "Fast"):
        page.choose(preset)
        values = page.fills(preset)
        page.until(lambda name=preset: page.text(page.of("badge")).startswith(name), "the preset in the header")
        told[preset] = (page.text(page.of("sentence")), page.text(page.of("badge")), str(values))
    assert all(len(set(of_all)) == 3 for of_all in zip(*told.values()))
    page.unfold("fold_advanced")
    page.unfold("fold_merging")
    before = page.values()
    page.number(page.of("merging.ratio"), 0.15)
    page.shows({**before, "preset": "Custom", "merging.ratio": 0.15})
    page.until(lambda: page.text(page.of("badge")).startswith("Custom"), "Custom in the header")
    # And back again.
    page.at.locator(f"{page.of('merging.ratio')} .accel-reset").click()
    page.shows({"merging.ratio": before["merging.ratio"]})
    # So does a method's switch, whose hint is not in sight.
    page.at.locator(f"{page.of('agents.on')} input").check()
    arrow = page.at.locator(f"{page.of('agents.on')} .accel-reset")
    page.until(lambda: arrow.count() and arrow.bounding_box()["width"] > 8, "an arrow that can be seen")
    arrow.click()
    page.shows({"agents.on": False})
    # What has no effect as the others stand is marked.
    assert "accel-idle" in page.at.locator(page.of("guidance.sigma_low")).first.get_attribute("class")
    assert "accel-idle" not in page.at.locator(page.of("guidance.after")).first.get_attribute("class")


def test_header_sentence_and_strip_follow_what_the_host_sets(page):
    told = ", ".join(f"{key}: {value}" for key, value in to_infotext(resolve({"enabled": True, "preset": "fast"}, "sd1")).items())
    page.paste(f"a star\nSteps: 7, Sampler: Euler a, CFG scale: 5, Seed: 1, Size: 192x128, Hires upscale: 2, {told}")
    page.shows({"enabled": True})
    strip = page.of("strip")
    page.until(
        lambda: "192x128, 7 steps" in page.text(strip) and page.text(page.of("badge")).startswith(("Fast", "Custom")), "the picture's"
    )
    page.prompt("a star")
    page.at.locator("#txt2img_hr > .label-wrap").click()
    page.number("#txt2img_hr_resize_x", 512)
    page.until(lambda: "hires pass 512x341" in page.text(strip), "the size that Hires. fix resizes to")


def test_clicks_in_prompt_to_prompt_write_edits(page):
    page.prompt("a red star")
    page.pick("#tab_txt2img #script_list", "Prompt-to-Prompt")
    chips, edits = "#script_txt2img_prompttoprompt_chips", "#script_txt2img_prompttoprompt_edits textarea"
    page.until(lambda: "red" in page.text(chips), "the prompt's words")
    page.at.locator(f'{chips} [data-accel-edit="red -> "]').click()
    assert page.at.locator(edits).input_value() == "red -> "
    page.at.locator(edits).fill("red -> blue\nlion*2")
    page.until(lambda: "Line 2" in page.text(chips), "what is wrong with the second line")
    red = page.at.locator(f"{chips} .accel-wrong").first.evaluate("at => getComputedStyle(at).color")
    assert red == "rgb(192, 57, 43)"
    page.at.locator(edits).fill("red -> blue")
    page.until(lambda: "Generate draws" in page.text(chips), "how much will be drawn")


def test_the_preview_of_edits_knows_the_styles_that_are_chosen(page):
    page.prompt("a red star")
    page.pick("#tab_txt2img #script_list", "Prompt-to-Prompt")
    chips = "#script_txt2img_prompttoprompt_chips"
    page.at.locator("#script_txt2img_prompttoprompt_edits textarea").fill("film*2")
    page.until(lambda: "word is 'film'" in page.text(chips), "a word that the prompt has not")
    page.at.locator("#txt2img_styles input").click()
    page.at.locator("#txt2img_styles ul li", has_text="film").first.click()
    page.until(lambda: "Generate draws" in page.text(chips), "the style's word")


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
    # Off, and what only accelerates a hires pass that is not there, are the plain picture.
    assert all(np.array_equal(cells[0, 0], cells[1, column]) for column in range(5))
    assert not np.array_equal(cells[0, 0], cells[0, 3])
    assert "X Type: [Accel] Preset" in page.written and "Y Type: [Accel] First pass" in page.written
    # The time of each cell.
    assert re.search(r"cells in the order of drawing: Off.* s, .*Fast.* s .*x est", page.text("#html_log_txt2img"))
