"""T-GATE and guidance skipping in a real WebUI, through its API: the rows that its U-Net was given. Skipped without A1111_ROOT."""

import json

import numpy as np
import pytest
import real_webui

from lib_accel.core.schedule import first_step

pytestmark = [pytest.mark.host, pytest.mark.skipif(real_webui.root() is None, reason="A1111_ROOT names no WebUI")]

BARE = {"enabled": True, "preset": "Custom", "auto": False}
TGATE = BARE | {"tgate.on": True, "tgate.gate": 0.4}
STEPS = 5
SMALL = {"width": 64, "height": 64, "steps": STEPS, "cfg_scale": 7}
# Evaluations of five steps, and the number of them that the host counts on.
SAMPLERS = {
    "Euler a": (5, 5),
    "DPM++ 2M": (5, 5),
    "DPM++ SDE": (9, 10),
    "Heun": (9, 10),
    "DDIM": (4, 5),
    "UniPC": (5, 5),
    "LCM": (5, 5),
    "PLMS": (5, 5),
}
LONG = "a red star, " * 40


@pytest.fixture(scope="module")
def webui(tmp_path_factory):
    server = real_webui.WebUI(tmp_path_factory.mktemp("gate"))
    yield server
    server.stop()


def rows(webui):
    """By the reports of the last job's passes."""
    return [report["rows"] for report in webui.reports()]


def wanted(evaluations, total, conds, images, gate=0.4):
    """Rows of a pass: ``conds`` of the prompts, and before the gate one of the negative prompt for each picture."""
    return evaluations * conds + min(first_step(gate, total), evaluations) * images


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(webui, sampler, batch_size):
    evaluations, total = SAMPLERS[sampler]
    _, told = webui.job(TGATE, sampler_name=sampler, batch_size=batch_size, **SMALL)
    assert rows(webui) == [wanted(evaluations, total, batch_size, batch_size)], told
    assert webui.did("cross-attention served") and webui.methods()[0]["cache_bytes"] > 0


SITUATIONS = {
    "and": {"prompt": "a red star AND a blue ring :0.6"},
    "long": {"prompt": LONG},
    "long negative": {"negative_prompt": LONG},
    "apart": {"override_settings": {"batch_cond_uncond": False}},
    "long, padded": {"prompt": LONG, "override_settings": {"pad_cond_uncond": True}},
    "long, padded, old way": {"prompt": LONG, "override_settings": {"pad_cond_uncond_v0": True}},
    "negative previews": {"prompt": "a AND b", "sampler_name": "DDIM", "override_settings": {"live_preview_content": "Negative prompt"}},
}


@pytest.fixture(scope="module")
def stored(webui):
    """Options that were never stored are not put back after a job that overrides them."""
    names = ("batch_cond_uncond", "pad_cond_uncond", "pad_cond_uncond_v0", "live_preview_content", "s_min_uncond_all", "skip_early_cond")
    options = webui.get("/sdapi/v1/options")[1]
    assert webui.post("/sdapi/v1/options", {name: options[name] for name in names})[0] == 200


@pytest.mark.parametrize("change", [{}, {"tgate.after_gate": "uncond", "tgate.cache": "mean"}], ids=["cond", "uncond"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_batchings(webui, stored, situation, change):
    fields = SMALL | SITUATIONS[situation]
    _, told = webui.job(TGATE | change, **fields)
    conds = 2 if "AND" in fields.get("prompt", "") else 1
    evaluations, total = SAMPLERS[fields.get("sampler_name", "Euler a")]
    kept = situation == "negative previews"
    assert rows(webui) == [evaluations * (conds + 1) if kept else wanted(evaluations, total, conds, 1)], told
    assert ("live previews show the negative prompt" in webui.reasons()) is kept
    if "padded" in situation:
        assert "Pad conds" in told


def test_hires_and_its_own_gate(webui):
    hires = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}
    webui.job(TGATE, **SMALL, **hires)
    assert rows(webui) == [wanted(5, 5, 1, 1)] * 2
    webui.job(TGATE | {"hires.gate": 0.8, "hires.merging_ratio": 0}, **SMALL, **hires)
    assert rows(webui) == [wanted(5, 5, 1, 1), wanted(5, 5, 1, 1, 0.8)]


@pytest.mark.parametrize("masked", [False, True])
def test_pictures_to_pictures(webui, masked):
    picture = np.full((64, 64, 3), 90, np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    fields = SMALL | {"init_images": [real_webui.encoded(picture)], "denoising_strength": 0.8}
    fields |= {"mask": real_webui.encoded(mask)} if masked else {}
    webui.job(TGATE, tab="img2img", **fields)
    evaluations = int(0.8 * STEPS) + 1
    assert rows(webui) == [wanted(evaluations, evaluations, 1, 1)]


@pytest.mark.parametrize("sampler", ["Euler a", "LCM", "DDIM"])
@pytest.mark.parametrize("prompt", ["a large red star", LONG])
def test_at_scale_one_half_the_rows_give_the_same_picture(webui, sampler, prompt):
    fields = SMALL | {"cfg_scale": 1, "sampler_name": sampler, "prompt": prompt}
    plain = webui.job(**fields)[0]
    pixels, _ = webui.job(BARE, **fields)
    evaluations, _ = SAMPLERS[sampler]
    assert rows(webui) == [evaluations] and "at guidance scale 1, where it changes nothing" in webui.reasons()
    assert np.abs(pixels.astype(int) - plain.astype(int)).max() <= 2
    webui.job(BARE | {"drop_at_one": False, "merging.on": True}, **fields)
    assert rows(webui) == [2 * evaluations]


@pytest.mark.parametrize("fields", [{}, {"prompt": LONG}], ids=["plain", "long"])
def test_the_same_as_the_hosts_own_skipping(webui, stored, fields):
    """All steps without the negative prompt: by NGMS, and by an interval of sigma in which no step lies. Bit for bit."""
    ngms = {"s_min_uncond": 1e6, "override_settings": {"s_min_uncond_all": True}}
    its_own = webui.job(**SMALL, **fields, **ngms)[0]
    interval = {"guidance.on": True, "guidance.when": "outside", "guidance.sigma_low": 1e6, "guidance.sigma_high": 1e7}
    pixels, _ = webui.job(BARE | interval, **SMALL, **fields)
    assert np.array_equal(pixels, its_own)
    webui.job(TGATE, **SMALL, **fields, **ngms)
    assert "guidance was left to the WebUI" in webui.reasons()


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_parts_of_an_and_prompt_count_by_their_weights(webui, sampler):
    """Whatever their order. The host's own skipping counts the first one as 1 less the others' weights: nothing, where all are 1."""
    interval = BARE | {"guidance.on": True, "guidance.when": "outside", "guidance.sigma_low": 1e6, "guidance.sigma_high": 1e7}
    fields = SMALL | {"sampler_name": sampler}
    prompts = ("a red star AND a blue ring", "a blue ring AND a red star", "a blue ring")
    one, other, alone = (webui.job(interval, **fields | {"prompt": prompt})[0].astype(int) for prompt in prompts)
    assert np.abs(other - one).max() <= 2 < np.abs(alone - one).max()


@pytest.mark.parametrize("sampler", ["Euler a", "DDIM"])
def test_a_kept_direction_brings_the_picture_closer(webui, sampler):
    """Unguided steps in the same places, with the direction and without. In enough steps: ancestral noise ages a direction."""
    fields = {"width": 256, "height": 256, "steps": 25, "cfg_scale": 5, "sampler_name": sampler, "prompt": LONG}
    plain = webui.job(**fields)[0].astype(float)
    skip = BARE | {"guidance.on": True, "guidance.when": "after", "guidance.after": 0.5, "guidance.every": 3}
    without = webui.job(skip, **fields)[0]
    kept = webui.job(skip | {"guidance.reuse": True}, **fields)[0]
    assert np.square(kept - plain).mean() < np.square(without - plain).mean()


@pytest.mark.parametrize(("prompt", "guided"), [("a [red:blue:0.5] star", 7), ("a [red|blue] star", 10)])
def test_changing_prompts(webui, prompt, guided):
    webui.job(TGATE, **SMALL | {"steps": 10, "prompt": prompt})
    assert rows(webui) == [10 + guided] and "the gate waits for the last change of the prompts" in webui.reasons()


def test_a_sampler_that_goes_by_the_negative_prompt(webui):
    webui.job(TGATE, **SMALL, sampler_name="DDIM CFG++")
    assert rows(webui) == [8] and "CFG++" in webui.reasons()


def test_off_is_exact_afterwards(webui):
    before = webui.job(**SMALL)[0]
    gated, told = webui.job(TGATE | {"guidance.on": True, "guidance.reuse": True}, **SMALL)
    assert not np.array_equal(gated, before)
    assert np.array_equal(webui.job(**SMALL)[0], before)
    assert np.array_equal(webui.job(infotext=told, **SMALL)[0], gated)
    assert "star" not in json.dumps(webui.get("/accel/v1/report")[1])
