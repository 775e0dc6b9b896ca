"""Prompt-to-Prompt in a real WebUI, through its API. Skipped without A1111_ROOT."""

import base64
import io
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import real_webui
from PIL import Image
from test_real_networks import write_lora

pytestmark = [pytest.mark.host, pytest.mark.skipif(real_webui.root() is None, reason="A1111_ROOT names no WebUI")]

SOURCE = "a large red star on grass"
SWAP = {"edits": "star -> ring"}
# 100 words, 152 tokens and more.
LONG = SOURCE + ", painted with much care" * 20


@pytest.fixture(scope="module")
def webui(tmp_path_factory):
    data = tmp_path_factory.mktemp("edits")
    (data / "models" / "Lora").mkdir(parents=True)
    write_lora(data / "models" / "Lora" / "strong.safetensors")
    server = real_webui.WebUI(data)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def count(webui):
    """How many arguments the script takes."""
    infos = webui.get("/sdapi/v1/script-info")[1]
    (mine, other) = (s for s in infos if s["name"] == "prompt-to-prompt")
    assert [arg["label"] for arg in mine["args"]] == [arg["label"] for arg in other["args"]]
    return len(mine["args"])


def picture(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).astype(int)


def ask(webui, count, settings, tab="txt2img", accel=None, **fields):
    """(status, answer): the settings by name, the other arguments as by default."""
    body = {
        "prompt": SOURCE,
        "steps": 6,
        "width": 128,
        "height": 128,
        "seed": 3,
        "sampler_name": "Euler",
        "script_name": "prompt-to-prompt",
    }
    body |= {"script_args": [settings], **fields}
    if accel is not None:
        body["alwayson_scripts"] = {"accel": {"args": [accel]}}
    return webui.post(f"/sdapi/v1/{tab}", body)


def draw(webui, count, settings, **fields):
    """(pictures, infotexts), the grid first."""
    status, answer = ask(webui, count, settings, **fields)
    assert status == 200, answer
    texts = webui.told(answer)
    assert len(texts) == len(answer["images"])
    return [picture(image) for image in answer["images"]], texts


def edited(webui):
    """(layers of cross-attention, layers in all, steps edited) in the last job's first pass."""
    (layers, steps, _), *_ = webui.did("cross-attention")
    return layers, webui.account["passes"][0]["report"]["sites"], steps


def test_a_grid_of_nine(webui, count):
    plain = webui.job(prompt=SOURCE, steps=6, seed=3, sampler_name="Euler")[0]
    settings = {
        "edits": "star -> ring\nred -> blue\nlarge*-1",
        "y": "Cross window",
        "y_values": "0.2, 0.5, 0.9",
        "off": True,
        "times": True,
    }
    pictures, texts = draw(webui, count, settings)
    assert len(pictures) == 1 + 1 + 9 + 3
    assert edited(webui)[0] == edited(webui)[1]
    assert np.abs(pictures[1] - plain.astype(int)).max() <= 2
    assert "P2P y values: " in texts[0] and "P2P edits: red -> blue" in texts[3]
    assert np.array_equal(webui.job(prompt=SOURCE, steps=6, seed=3, sampler_name="Euler")[0], plain)


@pytest.mark.parametrize(
    "fields",
    [
        {"sampler_name": "Heun"},
        {"sampler_name": "DDIM"},
        {"sampler_name": "DDIM CFG++", "cfg_scale": 1},
        {"sampler_name": "UniPC"},
        {"sampler_name": "DPM++ 2M SDE"},
        {"width": 136, "height": 72},
        {"prompt": LONG},
        {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7},
        {"override_settings": {"batch_cond_uncond": False}},
    ],
    ids=lambda fields: next(iter(fields.values())) if len(fields) == 1 and isinstance(next(iter(fields.values())), str) else str([*fields]),
)
def test_kinds_of_jobs(webui, count, fields):
    pictures, _ = draw(webui, count, {**SWAP, "blend": "star", "start": 0}, **fields)
    assert edited(webui)[0] > 0 and "local blend" in webui.reasons()
    assert not np.array_equal(pictures[1], pictures[2])


def test_a_blend_that_lets_nothing_change_is_the_source(webui, count):
    for sampler in ("Euler", "Heun", "DDIM", "LCM"):
        pictures, _ = draw(webui, count, {**SWAP, "blend": "star", "threshold": 1, "start": 0}, sampler_name=sampler)
        assert np.abs(pictures[1] - pictures[2]).max() <= 1, sampler


def test_a_lora_of_the_source_is_that_of_its_edits(webui, count):
    without, _ = draw(webui, count, SWAP)
    pictures, texts = draw(webui, count, SWAP, prompt=f"{SOURCE} <lora:strong:1>")
    assert edited(webui)[0] > 0
    assert all(np.abs(new - old).max() > 2 for new, old in zip(pictures[1:], without[1:]))
    assert "<lora:strong:1>" in texts[2]
    status, answer = ask(webui, count, {"edits": "a blue ring <lora:other:1>"}, prompt=f"{SOURCE} <lora:strong:1>")
    assert status == 422 and "Line 1 has the tags" in str(answer)


def test_every_attention_kernel_of_the_host_draws_the_same_edit(webui, count):
    # Stored first: the host does not take back an override of an option that was never stored.
    webui.post("/sdapi/v1/options", {"cross_attention_optimization": "sdp - scaled dot product"})
    wanted, _ = draw(webui, count, SWAP)
    for kernel in ("InvokeAI", "sub-quadratic", "Doggettx", "V1 - original v1"):
        webui.post("/sdapi/v1/options", {"cross_attention_optimization": kernel})
        pictures, _ = draw(webui, count, SWAP)
        assert edited(webui)[0] > 0 and np.abs(pictures[2] - wanted[2]).mean() < 1, kernel
    webui.post("/sdapi/v1/options", {"cross_attention_optimization": "Automatic"})


def test_img2img(webui, count):
    buffer = io.BytesIO()
    Image.new("RGB", (128, 128), (200, 60, 60)).save(buffer, "PNG")
    fields = {"init_images": [base64.b64encode(buffer.getvalue()).decode()], "denoising_strength": 0.7}
    pictures, _ = draw(webui, count, SWAP, tab="img2img", **fields)
    assert edited(webui)[0] > 0 and len(pictures) == 3


def test_the_source_comes_back_from_png_info(webui, count):
    settings = {"edits": "star -> ring*1.5", "cross": "0.5", "blend": "star"}
    pictures, texts = draw(webui, count, settings)
    status, answer = webui.post("/sdapi/v1/txt2img", {"infotext": texts[2]})
    assert status == 200, answer
    again = [picture(image) for image in answer["images"]]
    assert [np.abs(new - old).max() <= 1 for new, old in zip(again[1:], pictures[1:])] == [True] * 2


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "has no edit"),
        ({"edits": "moon -> star"}, "its words are a, large, red, star, on, grass"),
        ({"edits": "star -> ring\na * b"}, "Line 2 "),
        ({"edits": "star -> ring AND moon"}, "AND joins"),
        ({"edits": "star -> [ring|moon]"}, "change from step to step"),
        ({**SWAP, "cross": "2"}, "Cross window"),
    ],
)
def test_what_cannot_be_drawn_is_refused(webui, count, settings, sentence):
    status, answer = ask(webui, count, settings)
    assert status == 422 and sentence in str(answer)


def test_forty_edits(webui, count):
    settings = {"edits": "\n".join(f"star -> ring {i}" for i in range(40)), "at_once": 12}
    pictures, _ = draw(webui, count, settings, steps=1, width=64, height=64)
    assert len(pictures) == 1 + 1 + 40


def test_the_accordion_goes_together_with_it(webui, count):
    accel = {"enabled": True, "preset": "Fast", "auto": False}
    draw(webui, count, {**SWAP, "self_layers": "all"}, accel=accel)
    assert "PromptToPrompt edits this layer" in webui.reasons() and edited(webui)[0] > 0


def test_an_interrupted_grid_keeps_what_was_finished(webui, count):
    plain = webui.job()[0]
    settings = {"edits": "\n".join(["star -> ring", "red -> blue"] * 4), "at_once": 2, "x_values": "1, 2, 3, 4, 5, 6, 7, 8"}
    with ThreadPoolExecutor() as pool:
        running = pool.submit(draw, webui, count, settings, steps=20)
        until = time.monotonic() + 120
        while webui.get("/sdapi/v1/progress?skip_current_image=true")[1]["state"]["job_no"] < 2 and time.monotonic() < until:
            time.sleep(0.1)
        webui.post("/sdapi/v1/interrupt", {})
        pictures, _ = running.result()
    assert 1 + 1 + 1 <= len(pictures) < 10 and any("Ended early" in comment for comment in webui.account["comments"])
    assert np.array_equal(webui.job()[0], plain)
