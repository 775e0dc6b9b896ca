"""Jobs inside jobs in a real WebUI, as ADetailer runs them. Skipped without A1111_ROOT."""

import re

import numpy as np
import pytest
import real_webui

from lib_accel.settings.infotext import unquoted

pytestmark = real_webui.needs("A1111_ROOT")

ON = {"enabled": True, "preset": "Custom", "auto": False, "merging.on": True, "guidance.when": "after", "guidance.after": 0.2}
FIELDS = {"width": 128, "height": 128, "steps": 12, "cfg_scale": 7}


@pytest.fixture(scope="module")
def webui(tmp_path_factory):
    others = [real_webui.OWN / name for name in ("witness", "detailer")]
    server = real_webui.WebUI(tmp_path_factory.mktemp("inner"), others=others)
    yield server
    server.stop()


def detailed(webui, accel, scripts, **fields):
    """(picture, infotext, what the inner job was given, its infotext, rows of all calls)."""
    webui.get("/witness/rows")
    picture, told = webui.job(accel, scripts={"detailer": [True, scripts]}, **FIELDS | fields)
    last = webui.get("/detailer/last")[1]
    return picture, told, real_webui.pixels(last["given"]), last, webui.get("/witness/rows")[1]


def repainted(webui, accel, picture):
    """What the inner job does, as a job of its own."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[32:96, 32:96] = 255
    fields = {"init_images": [real_webui.encoded(picture)], "mask": real_webui.encoded(mask), "mask_blur": 4, "inpainting_fill": 1}
    return webui.job(accel, tab="img2img", denoising_strength=0.6, inpaint_full_res=False, **FIELDS, **fields)[0]


@pytest.mark.parametrize("along", [False, True], ids=["without ours", "with ours"])
def test_both_jobs_do_what_their_settings_say(webui, along):
    off = webui.job(**FIELDS)[0]
    alone, account = webui.job(ON, **FIELDS)
    traces = webui.get("/witness/traces")[1]
    picture, told, given, last, rows = detailed(webui, ON, "accel" if along else "")
    assert unquoted(webui.get("/accel/v1/report")[1]["report"]["line"]).split(";")[0] in told
    assert np.array_equal(given, alone)
    assert np.array_equal(picture, repainted(webui, ON if along else None, alone))
    outer, inner = rows[:12], rows[12:]
    assert sum(outer) < 24 and (sum(inner) < 2 * len(inner)) is along
    without_times = [re.sub(r"in [\d.]+ s", "", text.split("Accel report: ")[1]) for text in (told, account)]
    assert without_times[0] == without_times[1] and "12 steps" in without_times[0]
    assert ("Accel Custom: " in last["comments"]) is along
    assert webui.get("/witness/traces")[1] == traces
    assert np.array_equal(webui.job(**FIELDS)[0], off)


def test_batches(webui):
    """Every picture tells of all that was sampled until then."""
    _, told, _, _, rows = detailed(webui, ON, "", batch_size=2, n_iter=2)
    assert "Accel report: " in told and "24 steps" not in told
    calls = 12 + 2 * 8
    assert len(rows) == 2 * calls and sum(rows[:12]) < 48 and rows[12:calls] == [2] * 16


def test_an_inner_job_of_a_plain_one(webui):
    plain = webui.job(**FIELDS)[0]
    picture, told, given, _, rows = detailed(webui, None, "accel")
    assert np.array_equal(given, plain) and np.array_equal(picture, repainted(webui, None, plain))
    assert set(rows) == {2} and "Accel" not in told
