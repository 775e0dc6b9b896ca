"""A real WebUI without a page (--nowebui): the API has our axes. Skipped without A1111_ROOT."""

import json

import pytest
import real_webui

pytestmark = [pytest.mark.host, pytest.mark.skipif(real_webui.root() is None, reason="A1111_ROOT names no WebUI")]


def test_the_plot_has_our_axes(tmp_path):
    webui = real_webui.WebUI(tmp_path, flags=("--nowebui",))
    try:
        infos = webui.get("/sdapi/v1/script-info")[1]
        script = next(info for info in infos if info["name"] == "x/y/z plot" and not info["is_img2img"])
        labels = script["args"][0]["choices"]
        assert labels.count("[Accel] Preset") == 1
        axis, flags = (
            [labels.index("[Accel] Preset"), "Off, Fast", ["Off", "Fast"]],
            [True, True, False, False, False, False, False, 0, False],
        )
        values = [*axis, 0, "", [], 0, "", [], *flags]
        asked = {"prompt": "a red star", "steps": 8, "width": 64, "height": 64, "seed": 1}
        status, drawn = webui.post("/sdapi/v1/txt2img", asked | {"script_name": "x/y/z plot", "script_args": values})
        assert status == 200, drawn
        texts = json.loads(drawn["info"])["infotexts"]
        cells = [text for text in texts if "X Type" not in text]
        assert ["Accel: Fast" in cell for cell in cells] == [False, True] and "Accel" not in cells[0]
    finally:
        webui.stop()
