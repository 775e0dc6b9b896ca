"""A real WebUI's page when a model of another family is loaded. Needs what test_real_browser.py needs, and A1111_SDXL."""

import pytest
import real_webui
from real_browser import Page, missing

from lib_accel.settings.job import preset_values

pytestmark = [*real_webui.needs("A1111_SDXL"), pytest.mark.skipif(missing() is not None, reason=missing() or "")]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    checkpoint = real_webui.named("A1111_SDXL")
    other = real_webui.says_sdxl(checkpoint, tmp_path_factory.mktemp("others"))
    server = real_webui.WebUI(tmp_path_factory.mktemp("families"), checkpoint=checkpoint, others=[other])
    yield server
    server.stop()


def test_a_presets_settings_follow_the_model(served, browser):
    context = browser.new_context(viewport={"width": 1500, "height": 1300})
    page = Page(context, served)
    page.unfold("enabled")
    page.choose("Draft")
    factor = "downsampling.deeper_factor"
    sdxl, sd1 = (preset_values("draft", family)[factor] for family in ("sdxl", "sd1"))
    assert sdxl != sd1
    page.until(lambda: page.values()[factor] == sdxl, "the values for SDXL")
    [sample] = [m["title"] for m in served.get("/sdapi/v1/sd-models")[1] if m["model_name"] == "sd-webui-accel-sample"]
    page.pick("#setting_sd_model_checkpoint", sample)
    page.until(lambda: page.values()[factor] == sd1, "the values for SD1")
    assert page.values()["preset"] == "Draft" and page.errors_of_ours() == []
    context.close()
