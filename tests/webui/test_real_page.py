"""What a real WebUI's page does with hostile texts, after Reload UI and in another language. Needs what test_real_browser.py needs."""

import json
import re

import numpy as np
import pytest
import real_webui
from real_browser import EVIL, Page, missing

from lib_accel.settings.schema import KNOBS

pytestmark = [pytest.mark.host, pytest.mark.skipif(missing() is not None, reason=missing() or "")]

WORDS = json.loads((real_webui.PROJECT / "localizations" / "zh_CN.json").read_text(encoding="utf-8"))


def test_what_an_attacker_writes_does_nothing(page):
    own = page.webui.data / "accel-presets.json"
    own.write_text(json.dumps({"version": 1, "presets": {EVIL: {}}}), encoding="utf-8")
    try:
        page.open()
        # A preset's name: in the file, and in the field for it.
        page.switch_on("Fast")
        page.unfold("fold_own")
        page.at.locator(f"{page.of('own_name')} :is(input, textarea)").fill(EVIL)
        page.at.locator(page.of("own_save")).click()
        page.until(lambda: EVIL in page.text(page.of("own_said")), "what is said about the name")
        # A prompt.
        page.prompt(f"a star {EVIL}")
        page.generate()
        assert EVIL in page.text("#html_info_txt2img")
        log = page.text("#html_log_txt2img")
        assert "Accel Fast: " in log and f"not understood: {EVIL}" in log
        # Values in PNG info.
        ratio = KNOBS["merging.ratio"].infotext
        page.paste(f"a star\nSteps: 2, Sampler: Euler a, Seed: 1, Size: 64x64, Accel: {EVIL}, {ratio}: {EVIL}")
        page.until(lambda: EVIL in page.text(page.of("preset")), "the sentence in place of the preset")
        page.generate()
        assert "Accel is off for this job: " in page.text("#html_log_txt2img") and EVIL in page.text("#html_log_txt2img")
        page.at.wait_for_timeout(1000)
    finally:
        own.unlink()
    assert page.harmed() == []


def test_the_page_works_after_reload_ui(page):
    page.unfold("enabled")
    page.unfold("fold_advanced")
    page.unfold("fold_own")
    page.at.locator(f"{page.of('own_name')} :is(input, textarea)").fill("M 1")
    page.at.locator(page.of("own_save")).click()
    page.until(lambda: page.text(page.of("own_said")).startswith("Saved."), "an own preset that is saved")

    def choices():
        return page.at.locator(f"{page.of('preset', 'img2img')} input").evaluate_all("of => of.map(input => input.value)")

    listed = ["Quality", "Balanced", "Fast", "Draft", "Custom", "M 1"]
    page.until(lambda: choices() == listed, "the own preset in the other tab")
    page.reload_ui()
    assert choices() == listed
    page.switch_on("Fast")
    page.fills("Fast")
    page.until(lambda: page.text(page.of("badge")).startswith("Fast · "), "the preset in the header")
    page.unfold("fold_own")
    page.at.locator(f"{page.of('own_name')} :is(input, textarea)").fill("M 1")
    page.sure = "Delete this preset? M 1"
    page.at.locator(page.of("own_delete")).click()
    page.until(lambda: page.text(page.of("own_said")) == "Deleted.", "an own preset that is deleted")
    # The axes are there, and once.
    cells, _, _ = page.plot()
    assert not np.array_equal(cells[0, 3], cells[1, 3])
    assert page.webui.get("/accel/v1/schema")[0] == 200


@pytest.fixture
def chinese(browser, tmp_path):
    """A page of a WebUI in Chinese."""
    (tmp_path / "config.json").write_text(json.dumps({"localization": "zh_CN"}), encoding="utf-8")
    server = real_webui.WebUI(tmp_path)
    try:
        yield Page(browser.new_context(viewport={"width": 1500, "height": 1300}), server, WORDS["Balanced"])
    finally:
        server.stop()


def test_chinese_pages_show_no_english_label_of_ours(chinese):
    # All that is there without another click: labels, hints, folds, choices, the header and the strip.
    wanted = {knob.short for knob in KNOBS.values()} | {knob.hint for name, knob in KNOBS.items() if name != "enabled"}
    wanted |= {"Advanced", "Own presets", "Save these settings", "Quality", "Balanced", "Fast", "Draft", "Custom"}
    wanted |= {"first pass", "step forecast"}
    for tab in ("txt2img", "img2img"):
        chinese.tab(tab)
        chinese.unfold("enabled", tab)
        for preset in ("Balanced", "Fast"):
            chinese.choose(preset, tab)
            header = f"{WORDS[preset]} · {WORDS['about']}"
            chinese.until(lambda t=tab, h=header: chinese.text(chinese.of("badge", t)).startswith(h), "a header in Chinese")
            chinese.at.wait_for_timeout(1000)
            texts = set(chinese.texts(chinese.of("enabled", tab)))
            assert {text for text in texts if text.isascii() and re.search("[a-z]{2}", text)} <= {"fp32"}
            assert {text for text in texts if WORDS.get(text, text) != text} == set()
            assert {WORDS[text] for text in wanted} <= texts
    assert chinese.errors_of_ours() == []
