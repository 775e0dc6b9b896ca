"""Whole calls and stages that are served, in a real WebUI, through its API. Skipped without A1111_ROOT."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import real_webui

pytestmark = real_webui.needs("A1111_ROOT")

ON = {"enabled": True, "preset": "Custom", "auto": False, "merging.ratio": 0.5}
STEPS = 9
FIELDS = {"width": 128, "height": 128, "steps": STEPS, "cfg_scale": 7, "sampler_name": "Euler"}
# Two latents that are cut unevenly on the way down.
ODD = FIELDS | {"width": 136, "height": 72}
CALLS, STAGE, SHALLOW = {"ServeCalls": {"every": 3}}, {"ServeStage": {"stage": 8, "every": 3}}, {"Shallow": {"before": 2, "every": 3}}
INPUTS = "model.diffusion_model.input_blocks."


@pytest.fixture(scope="module", params=["A1111_ROOT", "A1111_SDXL"], ids=["sd1", "sdxl"])
def webui(request, tmp_path_factory):
    checkpoint = None if request.param == "A1111_ROOT" else real_webui.named(request.param)
    if request.param != "A1111_ROOT" and checkpoint is None:
        pytest.skip(f"{request.param} names nothing")
    data = tmp_path_factory.mktemp("served")
    folder = data / "extensions" / "serving"
    folder.mkdir(parents=True)
    shutil.copyfile(real_webui.PROJECT / "tests" / "serving.py", folder / "serving.py")
    others = [real_webui.OWN / name for name in ("witness", "serving")]
    server = real_webui.WebUI(data, checkpoint=checkpoint, others=others)
    shapes = real_webui.tensors(checkpoint or real_webui.own_checkpoint())
    # Behind the input blocks: Stable Diffusion 1.x's sample has eight, SDXL nine.
    server.middle = len({name.removeprefix(INPUTS).partition(".")[0] for name in shapes if name.startswith(INPUTS)})
    yield server
    server.stop()


def plain(webui, **fields):
    """(picture, ResBlocks run) of a job without us."""
    taken(webui)
    picture = webui.job(**FIELDS | fields)[0]
    return picture, taken(webui)["blocks"]


def taken(webui):
    return webui.get("/serving/taken")[1]


def served(webui, methods, asked=None, **fields):
    """(picture, what was run, the report) of a job with these methods. asked: of the extension "serving", more."""
    assert webui.post("/serving/ask", {"methods": methods} | (asked or {}))[0] == 200
    taken(webui)
    try:
        picture = webui.job(ON, **FIELDS | fields)[0]
    finally:
        webui.post("/serving/ask", {})
    return picture, taken(webui), webui.reports()[-1]


@pytest.mark.parametrize("batch", [1, 2])
def test_calls_that_are_served_run_nothing(webui, batch):
    before, whole = plain(webui, batch_size=batch)
    traces = webui.get("/witness/traces")[1]
    picture, run, report = served(webui, CALLS, batch_size=batch)
    assert run["blocks"] == whole // 3 and not np.array_equal(picture, before)
    assert (report["calls_run"], report["calls_served"], report["rows_served"]) == (3, 6, 12 * batch)
    assert report["methods"][0]["cache_bytes"] > 0
    assert webui.get("/witness/traces")[1] == traces
    assert np.array_equal(served(webui, {"ServeCalls": {"every": 1}}, batch_size=batch)[0], before)
    assert np.array_equal(plain(webui, batch_size=batch)[0], before)


def test_stages_that_are_served(webui):
    before, whole = plain(webui, **ODD)
    traces = webui.get("/witness/traces")[1]
    middle = {"ServeStage": {"stage": webui.middle, "every": 3}}
    for methods in (middle, SHALLOW):
        picture, run, report = served(webui, methods, **ODD)
        assert report["calls_run"] == STEPS and report["stages_served"] > 0 and not np.array_equal(picture, before)
        if methods is middle:
            assert whole - run["blocks"] == 2 * (STEPS * 2 // 3), "the middle block has two"
        assert run["blocks"] < whole
    assert webui.get("/witness/traces")[1] == traces
    assert np.array_equal(plain(webui, **ODD)[0], before)


@pytest.mark.parametrize(
    "methods", [{"ServeStage": {"stage": 8, "every": 1}}, {"Shallow": {"before": 2, "every": 1}}], ids=["stage", "shallow"]
)
def test_stages_that_are_only_watched_change_nothing(webui, methods):
    before, whole = plain(webui)
    picture, run, report = served(webui, methods)
    assert np.array_equal(picture, before) and run["blocks"] == whole and report["stages_served"] == 0


@pytest.mark.parametrize("methods", [CALLS, STAGE, SHALLOW], ids=["calls", "stage", "shallow"])
def test_order_0_is_exact_where_the_input_did_not_change(webui, methods):
    webui.post("/serving/ask", {"freeze": True})
    before, whole = plain(webui, batch_size=2)
    picture, run, report = served(webui, methods, {"freeze": True}, batch_size=2)
    assert report["calls_served"] or report["stages_served"]
    assert run["blocks"] <= whole and np.array_equal(picture, before)
    assert not np.array_equal(plain(webui, batch_size=2)[0], before)


@pytest.mark.parametrize("methods", [CALLS, SHALLOW], ids=["calls", "shallow"])
def test_errors_leave_nothing(webui, methods):
    before, _ = plain(webui)
    traces = webui.get("/witness/traces")[1]
    webui.post("/serving/ask", {"methods": methods, "fail_at": 3})
    body = {"prompt": "a star", **FIELDS, "alwayson_scripts": {"accel": {"args": [ON]}}}
    status, answer = webui.post("/sdapi/v1/txt2img", body)
    assert status == 500, answer
    webui.post("/serving/ask", {})
    assert webui.get("/witness/traces")[1] == traces
    assert np.array_equal(plain(webui)[0], before)


@pytest.mark.parametrize("how", ["interrupt", "skip"])
@pytest.mark.parametrize("methods", [CALLS, SHALLOW], ids=["calls", "shallow"])
def test_jobs_that_are_stopped_leave_nothing(webui, methods, how):
    before, _ = plain(webui)
    traces = webui.get("/witness/traces")[1]
    with ThreadPoolExecutor() as pool:
        running = pool.submit(served, webui, methods, steps=150)
        until = time.monotonic() + 60
        while webui.get("/sdapi/v1/progress?skip_current_image=true")[1]["state"]["sampling_step"] < 5 and time.monotonic() < until:
            time.sleep(0.1)
        webui.post(f"/sdapi/v1/{how}", {})
        report = running.result()[2]
    assert 3 <= report["steps"] < 150
    assert webui.get("/witness/traces")[1] == traces
    assert np.array_equal(plain(webui)[0], before)


@pytest.mark.parametrize("when", ["before", "inside"])
def test_a_network_around_the_unet(webui, when):
    """Where ours is outside it does not run in calls that are served; where it is not, that is said."""
    before, _ = plain(webui)
    traces = webui.get("/witness/traces")[1]
    _, run, report = served(webui, CALLS, {"wrap": when})
    assert report["calls_served"] == 6
    said = any("another forward" in reason for reason in report["stood_down"])
    assert (run["networks"], said) in {(3, False), (STEPS, True)}
    assert np.array_equal(plain(webui)[0], before)
    # The network put back the forward that it had found, maybe ours; the next job, on or off, takes that away.
    assert webui.get("/witness/traces")[1] == traces
