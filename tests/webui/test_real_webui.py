"""The same against a real WebUI, through its API. Skipped without A1111_ROOT."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import real_webui
from test_bad_values import BAD

from lib_accel.settings.infotext import PRESET_KEY, REPORT_KEY, is_ours
from lib_accel.settings.schema import KNOBS

pytestmark = [pytest.mark.host, pytest.mark.skipif(real_webui.root() is None, reason="A1111_ROOT names no WebUI")]

ON = {"enabled": True, "preset": "Fast", "auto": False}
KINDS = {
    "plain": {},
    "hires": {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7},
    "and": {"prompt": "a red star AND a blue ring :0.6", "batch_size": 2},
    "heun": {"sampler_name": "Heun"},
    "ddim": {"sampler_name": "DDIM"},
    "adaptive": {"sampler_name": "DPM adaptive", "cfg_scale": 7, "steps": 20},
    "odd": {"width": 136, "height": 72},
}


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """Pictures of a WebUI that has no extensions, by kind."""
    server = real_webui.WebUI(tmp_path_factory.mktemp("plain"), extension=False)
    try:
        return {kind: server.job(**fields)[0] for kind, fields in KINDS.items()}
    finally:
        server.stop()


@pytest.fixture(scope="module")
def webui(without, tmp_path_factory):
    server = real_webui.WebUI(tmp_path_factory.mktemp("accel"))
    yield server
    server.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_off_is_exact_before_and_after_a_job_that_is_on(webui, without, kind):
    assert np.array_equal(webui.job(**KINDS[kind])[0], without[kind])
    on, told = webui.job(ON, **KINDS[kind])
    assert not np.array_equal(on, without[kind])
    assert f"{PRESET_KEY}: Fast" in told and f"{REPORT_KEY}: " in told
    assert webui.saved() or any(method["layers"] for method in webui.methods())
    off, told = webui.job(**KINDS[kind])
    assert np.array_equal(off, without[kind])
    assert "Accel" not in told


def test_a_sampler_of_no_fixed_length(webui):
    """It takes more evaluations than steps, so nothing begins at a part of them."""
    webui.job(ON, **KINDS["adaptive"])
    assert "guidance is kept in every step: this sampler chooses the number of steps itself" in webui.reasons() and webui.saved() == 0
    assert webui.did("merging") and "few-step" not in webui.reasons()


def test_arguments_as_the_host_lists_them(webui):
    scripts = [s for s in webui.get("/sdapi/v1/script-info")[1] if s["name"] == "accel"]
    assert sorted(s["is_img2img"] for s in scripts) == [False, True]
    for script in scripts:
        assert [arg["label"] for arg in script["args"]] == [knob.label for knob in KNOBS.values()]


def test_bad_values(webui, without):
    for bad in BAD:
        if any(isinstance(v, (int, float)) and not -(2.0**63) < v < 2.0**63 for v in bad.values()):
            # The host's own JSON takes no such numbers.
            continue
        pixels, _ = webui.job(bad)
        assert webui.account["complaint"], bad
        assert np.array_equal(pixels, without["plain"]), bad


def test_png_info_replays_the_picture(webui):
    settings = {"enabled": True, "preset": "Custom", "auto": False, "merging.ratio": 0.3, "agents.sx": 2, "agents.end": 0.6}
    pixels, told = webui.job(settings)
    again, _ = webui.job(infotext=told)
    assert np.array_equal(again, pixels)


def test_a_grid_over_two_axes(webui):
    script = next(s for s in webui.get("/sdapi/v1/script-info")[1] if s["name"] == "x/y/z plot" and not s["is_img2img"])
    labels = script["args"][0]["choices"]
    axes = [
        labels.index("[Accel] Preset"),
        "Quality, Fast",
        ["Quality", "Fast"],
        labels.index("[Accel] On"),
        "True, False",
        ["True", "False"],
    ]
    args = [*axes, 0, "", [], True, True, False, False, False, False, False, 0, False]
    body = {"prompt": "a star", "steps": 4, "width": 128, "height": 128, "seed": 1, "script_name": "x/y/z plot", "script_args": args}
    status, answer = webui.post("/sdapi/v1/txt2img", body)
    assert status == 200, answer
    cells = [text for text in json.loads(answer["info"])["infotexts"] if "X Type" not in text]
    on = [text for text in cells if "Accel: " in text]
    assert len(on) >= 2 and any("Accel" not in text for text in cells)


def test_report_and_schema(webui):
    webui.job(ON, prompt="a secret prompt")
    status, answer = webui.get("/accel/v1/report")
    assert status == 200 and "secret" not in json.dumps(answer)
    (report,) = (entry["report"] for entry in answer["report"]["passes"])
    assert any(method["layers"] for method in report["methods"]) and str(report["steps"]) in answer["report"]["line"]
    assert [s["name"] for s in webui.get("/accel/v1/schema")[1]["settings"]] == list(KNOBS)
    assert is_ours("Accel report")


@pytest.mark.parametrize("how", ["interrupt", "skip"])
def test_a_job_that_is_stopped_leaves_nothing(webui, without, how):
    with ThreadPoolExecutor() as pool:
        running = pool.submit(webui.job, ON, steps=150)
        until = time.monotonic() + 60
        while webui.get("/sdapi/v1/progress?skip_current_image=true")[1]["state"]["sampling_step"] < 3 and time.monotonic() < until:
            time.sleep(0.1)
        webui.post(f"/sdapi/v1/{how}", {})
        running.result()
    assert 3 <= webui.account["passes"][0]["report"]["steps"] < 150
    assert np.array_equal(webui.job()[0], without["plain"])
