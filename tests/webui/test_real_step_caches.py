"""Forecast and DeepCache in a real WebUI, through its API: what the U-Net was given, what is told, and that nothing is left. Skipped
without A1111_ROOT; with A1111_SDXL and A1111_INPAINTING for those kinds of checkpoints, too."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import real_webui
from real_webui import encoded, pixels

from lib_accel.methods.deep_cache import DeepCache

pytestmark = real_webui.needs("A1111_ROOT")

BARE = {"enabled": True, "preset": "Custom", "auto": False}
PLAN = BARE | {"forecast.on": True, "forecast.every": 2}
# Every forecast is near enough.
CONTROL = BARE | {"forecast.on": True, "forecast.tolerance": 1000, "forecast.largest_gap": 1, "forecast.last": 1}
DEEP = BARE | {"deepcache.on": True}
DEEP_CONTROL = DEEP | {"deepcache.tolerance": 1000, "deepcache.branch": 2, "deepcache.every": 3}
# One decision for both.
THREE = CONTROL | {"forecast.tolerance": 3, "deepcache.on": True, "deepcache.every": 3, "deepcache.branch": "top level"}
WAYS = {"plan": PLAN, "control": CONTROL, "deep": DEEP, "deep control": DEEP_CONTROL, "three": THREE}
STEPS = 16
FIELDS = {"width": 128, "height": 128, "steps": STEPS, "cfg_scale": 7, "sampler_name": "Euler"}
PICTURE = np.stack([(np.indices((128, 128)).sum(0) % 64 * 4).astype(np.uint8)] * 3, 2)
IMG2IMG = {"tab": "img2img", "init_images": [encoded(PICTURE)], "denoising_strength": 0.8, "steps": 20}
MASK = {"mask": encoded(np.pad(np.full((64, 64), 255, np.uint8), 32)), "inpainting_fill": 1, "inpaint_full_res": False}
KINDS = {
    "plain": {},
    "2M Karras": {"sampler_name": "DPM++ 2M", "scheduler": "Karras"},
    "ancestral": {"sampler_name": "Euler a"},
    "hires": {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.8},
    "img2img": IMG2IMG,
    "mask": IMG2IMG | MASK,
    "and": {"prompt": "a red star AND a blue ring :0.6"},
    "edited": {"prompt": "a [red:blue:0.3] star"},
    "batch": {"batch_size": 2},
    "long, apart": {"prompt": "a red star, " * 40},
}
# A checkpoint's own kinds.
ONLY = {"A1111_INPAINTING": ("plain", "mask", "batch")}


@pytest.fixture(scope="module", params=["A1111_ROOT", "A1111_SDXL", "A1111_INPAINTING"], ids=["sd1", "sdxl", "inpainting"])
def webui(request, tmp_path_factory):
    checkpoint = None if request.param == "A1111_ROOT" else real_webui.named(request.param)
    if request.param != "A1111_ROOT" and checkpoint is None:
        pytest.skip(f"{request.param} names nothing")
    server = real_webui.WebUI(tmp_path_factory.mktemp("steps"), checkpoint=checkpoint, others=[real_webui.OWN / "witness"])
    server.only, server.firsts = ONLY.get(request.param, tuple(KINDS)), {}
    yield server
    server.stop()


def rows(webui):
    return webui.get("/witness/rows")[1]


def traces(webui):
    return webui.get("/witness/traces")[1]


def plain(webui, **fields):
    """Of a job without us. Before image to image the global generator is where such a job leaves it: the host's encoder draws from it."""
    if "tab" in fields:
        webui.job(**fields)
    return webui.job(**fields)[0]


def first(webui, kind):
    """The plain picture of this kind, drawn before ours of that kind."""
    if kind not in webui.firsts:
        webui.firsts[kind] = plain(webui, **FIELDS | KINDS[kind])
    elif "tab" in KINDS[kind]:
        webui.job(**FIELDS | KINDS[kind])
    return webui.firsts[kind]


def accounts(webui):
    """Of the last job's passes, in order: the whole report and that of its one method."""
    return [(entry["report"], entry["report"]["methods"][0]) for entry in webui.account["passes"]]


def is_true(webui, seen, way):
    """Whether what is told of the last job is what its U-Net was given."""
    at = 0
    for report, method in accounts(webui):
        # Shallow stages that ran once more behind a call ran on its rows.
        mine = seen[at : at + report["calls_run"] + report["calls_measured"]]
        at += len(mine)
        measured = sum(mine) - report["rows_run"]
        assert (
            bool(measured) == bool(report["calls_measured"])
            and 0 <= measured <= report["rows_run"]
            and report["rows_run"] + report["rows_served"] == report["rows"]
        )
        assert report["calls_run"] + report["calls_served"] == report["unet_calls"]
        if "deep" in way:
            assert report["calls_served"] == 0 and bool(method["shallow_steps"]) == bool(report["stages_served"])
        else:
            assert bool(method["served"]) == bool(report["calls_served"]) and not method["failed"]
        assert bool(method["cache_bytes"]) >= bool(method["served"] or method["shallow_steps"])
    assert at == len(seen) and not webui.failures()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_jobs(webui, kind, way):
    if kind not in webui.only:
        pytest.skip("another checkpoint's")
    fields = FIELDS | KINDS[kind]
    before, found = first(webui, kind), traces(webui)
    rows(webui)
    picture, told = webui.job(WAYS[way], **fields)
    is_true(webui, rows(webui), way)
    acted = [method["shallow_steps"] or sum(len(one["steps"]) for one in method["served"]) for _, method in accounts(webui)]
    assert len(acted) == 1 + (kind == "hires") and all(acted), webui.reasons()
    if way == "deep" and kind in ("plain", "2M Karras", "ancestral", "batch", "and"):
        assert acted == [sum(map(bool, DeepCache().schedule(STEPS).kinds))]
    if way in ("plan", "control") and kind == "batch":
        assert [one["picture"] for one in accounts(webui)[0][1]["served"]] == [0, 1]
    assert not np.array_equal(picture, before)
    # PNG info does not say how the hires pass samples where that is as in the first.
    again = {"hr_sampler_name": "Euler", "hr_scheduler": "Automatic"} if kind == "hires" else {}
    assert np.array_equal(webui.job(infotext=told, **fields | again)[0], picture)
    assert np.array_equal(plain(webui, **fields), before) and traces(webui) == found


@pytest.mark.parametrize("way", WAYS)
def test_a_refiner(webui, way):
    """It begins anew: nothing of one model is served by the other, and its own steps are served once it is warm."""
    if real_webui.named("A1111_REFINER") is None:
        pytest.skip("A1111_REFINER names nothing")
    fields = FIELDS | {"steps": 24, "refiner_checkpoint": real_webui.named("A1111_REFINER").stem, "refiner_switch_at": 0.5}
    before = plain(webui, **fields)
    rows(webui)
    picture = webui.job(WAYS[way], **fields)[0]
    seen = rows(webui)
    is_true(webui, seen, way)
    (first, one), (second, other) = accounts(webui)
    assert (first["passes"], second["passes"], first["steps"] + second["steps"]) == (1, 0, 24)
    if "deep" in way:
        assert one["shallow_steps"] and other["shallow_steps"]
    else:
        served = [[step for entry in method["served"] for step in entry["steps"]] for method in (one, other)]
        assert max(served[0]) < first["steps"] and min(served[1]) >= first["steps"] + 5
    assert not np.array_equal(picture, before) and np.array_equal(plain(webui, **fields), before)


@pytest.mark.parametrize("way", ["control", "deep"])
@pytest.mark.parametrize("how", ["interrupt", "skip"])
def test_a_job_that_is_stopped_leaves_nothing(webui, how, way):
    before, found = plain(webui, **FIELDS), traces(webui)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(webui.job, WAYS[way], **FIELDS | {"steps": 150})
        until = time.monotonic() + 60
        while webui.get("/sdapi/v1/progress?skip_current_image=true")[1]["state"]["sampling_step"] < 60 and time.monotonic() < until:
            time.sleep(0.1)
        webui.post(f"/sdapi/v1/{how}", {})
        running.result()
    assert 50 < accounts(webui)[0][0]["steps"] < 150 and traces(webui) == found
    assert np.array_equal(plain(webui, **FIELDS), before)


@pytest.mark.parametrize(("label", "values", "way"), [("Forecast: run every", "2, 3", "plan"), ("DeepCache: run every", "2, 3", "deep")])
def test_cells_of_a_plot_are_jobs_of_their_own(webui, label, values, way):
    script = next(s for s in webui.get("/sdapi/v1/script-info")[1] if s["name"] == "x/y/z plot" and not s["is_img2img"])
    labels = script["args"][0]["choices"]
    (axis,) = (place for place, name in enumerate(labels) if name.lower() == f"[accel] {label}".lower())
    args = [axis, values, [], 0, "", [], 0, "", [], True, True, False, False, False, False, False, 0, False]
    given = {"prompt": "a star", "seed": 1, "script_name": "x/y/z plot", "script_args": args}
    body = FIELDS | given | {"alwayson_scripts": {"accel": {"args": [WAYS[way]]}}}
    status, answer = webui.post("/sdapi/v1/txt2img", body)
    assert status == 200, answer
    cells = [
        (pixels(image), text) for image, text in zip(answer["images"], json.loads(answer["info"])["infotexts"]) if "X Type" not in text
    ]
    cells = cells[-2:]
    assert not np.array_equal(cells[0][0], cells[1][0])
    name = "forecast.every" if way == "plan" else "deepcache.every"
    for (cell, text), value in zip(cells, (2, 3)):
        assert np.array_equal(cell, webui.job(WAYS[way] | {name: value}, prompt="a star", **FIELDS)[0])
        assert np.array_equal(cell, webui.job(infotext=text, prompt="a star", **FIELDS)[0])
