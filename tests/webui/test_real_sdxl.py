"""A checkpoint of SDXL's kind in a real WebUI, through its API. Skipped without A1111_ROOT and A1111_SDXL."""

import re

import numpy as np
import pytest
import real_webui
from real_webui import encoded, pixels

from lib_accel.core.schedule import first_step
from lib_accel.settings.few_step_models import FEW_STEPS

pytestmark = real_webui.needs("A1111_SDXL")

BARE = {"enabled": True, "preset": "Custom", "auto": False}
LONG = "a red star, " * 40
# More than a few-step model is given.
STEPS = FEW_STEPS + 1
SMALL = {"width": 128, "height": 128, "steps": STEPS, "cfg_scale": 7}
HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}
PICTURE = encoded(np.full((128, 128, 3), 90, np.uint8))
KINDS = {
    "plain": {},
    "hires": HIRES,
    "and": {"prompt": "a red star AND a blue ring :0.6", "batch_size": 2},
    "long": {"prompt": LONG},
    "long negative": {"negative_prompt": LONG},
    "heun": {"sampler_name": "Heun"},
    "ddim": {"sampler_name": "DDIM"},
    "odd": {"width": 136, "height": 72},
    "img2img": {"tab": "img2img", "init_images": [PICTURE], "denoising_strength": 0.7},
}
AFTER = {"guidance.on": True, "guidance.when": "after", "guidance.after": 0.4}
GATE = {"tgate.on": True, "tgate.gate": 0.4}
# Settings, their effect, and on which layers; none where it is rows that are left out: then the count of steps.
METHODS = {
    "agents": ({"agents.on": True, "agents.max_downsample": 8, "agents.end": 1}, "agents", "all"),
    "merging": ({"merging.on": True, "merging.ratio": 0.5}, "merging", "finest"),
    "local merging": ({"merging.on": True, "merging.ratio": 0.5, "merging.matching": "local"}, "merging", "finest"),
    "downsampling": ({"downsampling.on": True, "downsampling.factor": 2}, "downsampling", "finest"),
    "gate": (GATE, "cross-attention served", "all"),
    "published gate": (GATE | {"tgate.after_gate": "uncond", "tgate.cache": "mean"}, "cross-attention served", "all"),
    "guidance": (AFTER, "unguided_steps", None),
    "kept direction": (AFTER | {"guidance.reuse": True, "guidance.every": 0}, "kept_direction_steps", None),
}


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """Pictures of a WebUI that has no extensions, by kind."""
    server = real_webui.WebUI(tmp_path_factory.mktemp("plain"), extension=False, checkpoint=real_webui.named("A1111_SDXL"))
    try:
        return {kind: server.job(**SMALL | fields)[0] for kind, fields in KINDS.items()}
    finally:
        server.stop()


@pytest.fixture(scope="module")
def webui(without, tmp_path_factory):
    data = tmp_path_factory.mktemp("accel")
    server = real_webui.WebUI(data, checkpoint=real_webui.named("A1111_SDXL"), others=[real_webui.OWN / "witness"])
    yield server
    server.stop()


@pytest.fixture(scope="module")
def layers():
    """How many layers of the U-Net there are: in all, and at the finest level that has attention."""
    shapes = real_webui.tensors(real_webui.named("A1111_SDXL"))
    widths = [shape[0] for name, shape in shapes.items() if re.match(r"model\.diffusion_model\..*attn1\.to_q\.weight", name)]
    return {"all": len(widths), "finest": widths.count(min(widths))}


def rows(webui):
    """Of every call of the U-Net since the last time."""
    return webui.get("/witness/rows")[1]


@pytest.mark.parametrize("preset", ["Balanced", "Fast", "Draft"])
@pytest.mark.parametrize("kind", KINDS)
def test_off_is_exact_before_and_after_each_preset(webui, without, layers, kind, preset):
    fields = SMALL | KINDS[kind]
    assert np.array_equal(webui.job(**fields)[0], without[kind])
    traces = webui.get("/witness/traces")[1]
    on = webui.job({"enabled": True, "preset": preset, "auto": False}, **fields)[0]
    assert not np.array_equal(on, without[kind])
    # Its widths are not SDXL's own, so presets take it for SD1, where Draft goes one level deeper.
    downsampled = webui.did("downsampling")[0][0]
    assert webui.account["preset"].lower() == preset.lower()
    assert downsampled > layers["finest"] if preset == "Draft" else downsampled == layers["finest"]
    off, told = webui.job(**fields)
    assert np.array_equal(off, without[kind]) and "Accel" not in told
    assert webui.get("/witness/traces")[1] == traces


@pytest.mark.parametrize("kind", ["plain", "long"])
@pytest.mark.parametrize("method", METHODS)
def test_methods(webui, without, layers, method, kind):
    settings, effect, where = METHODS[method]
    fields = SMALL | KINDS[kind]
    rows(webui)
    picture, told = webui.job(BARE | settings, **fields)
    gate = first_step(0.4, STEPS) if where is None or "gate" in method else STEPS
    seen, (report,) = rows(webui), webui.reports()
    assert sum(seen) == report["rows_run"] == STEPS + gate
    assert len(seen) == report["unet_calls"]
    later = STEPS - gate
    if where is None:
        (done,) = webui.methods()
        assert done[effect] == later == webui.saved()
    elif later:
        assert webui.did(effect) == [(layers[where], later, STEPS)]
        assert webui.methods()[0]["unguided_steps"] == later == webui.saved()
    else:
        assert webui.did(effect) == [(layers[where], STEPS, STEPS)]
    assert not np.array_equal(picture, without[kind])
    assert np.array_equal(webui.job(infotext=told, **fields)[0], picture)
    assert np.array_equal(webui.job(**fields)[0], without[kind])


def test_at_scale_one_half_the_rows_give_the_same_picture(webui):
    fields = SMALL | {"cfg_scale": 1}
    plain = webui.job(**fields)[0]
    rows(webui)
    picture, _ = webui.job(BARE, **fields)
    assert rows(webui) == [1] * STEPS
    assert np.abs(picture.astype(int) - plain.astype(int)).max() <= 2


def test_a_refiner_of_another_kind(webui, without):
    """The U-Net is another object from the middle of the pass on."""
    names = [model["title"] for model in webui.get("/sdapi/v1/sd-models")[1] if model["title"] != real_webui.named("A1111_SDXL").name]
    if not names:
        pytest.skip("one checkpoint alone")
    refined = SMALL | {"refiner_checkpoint": names[0], "refiner_switch_at": 0.5}
    plain = webui.job(**refined)[0]
    rows(webui)
    picture = webui.job(BARE | {"tgate.on": True, "tgate.gate": 0.2}, **refined)[0]
    seen = rows(webui)
    assert len(webui.account["passes"]) == 2 and len(seen) == STEPS
    # Nothing of the first model is served by the second: its first step runs all rows.
    assert seen[:3] == [2, 2, 2] and sum(seen) < 2 * STEPS and seen[4:].count(2) == 1
    assert not np.array_equal(picture, plain)
    assert np.array_equal(webui.job(**refined)[0], plain)
    assert np.array_equal(webui.job(**SMALL)[0], without["plain"])


SOURCE = "a large red star on grass"
EDITS = ["star -> ring", "red -> blue", "a large blue star on grass" + ", painted with much care" * 20]


def edit(webui, settings, **fields):
    """(pictures, infotexts) of the script Prompt-to-Prompt, the grid first."""
    body = {"prompt": SOURCE, "seed": 1, "sampler_name": "Euler a", "script_name": "prompt-to-prompt", "script_args": [settings]}
    status, answer = webui.post("/sdapi/v1/txt2img", body | SMALL | fields)
    assert status == 200, answer
    return [pixels(image).astype(int) for image in answer["images"]], webui.told(answer)


def test_three_edits_of_unequal_length_with_heat_maps_and_blend(webui, layers):
    plain = webui.job(prompt=SOURCE, **SMALL)[0]
    settings = {"edits": "\n".join(EDITS), "blend": "star", "heat": "star", "cross": "1"}
    rows(webui)
    pictures, texts = edit(webui, settings)
    # The prompts are longer than the negative one: two calls a step, of the four prompts and of as many negative ones.
    assert rows(webui) == [4] * (2 * STEPS)
    count = layers["all"]
    assert webui.did("cross-attention") == [(count, STEPS, STEPS)] and webui.did("self-attention") and "local blend" in webui.reasons()
    assert webui.account["passes"][0]["report"]["unet_calls"] == 2 * STEPS
    # The grid, the source, its edits, and heat maps of the three that have the word.
    assert len(pictures) == 1 + 1 + 3 + 3 and sum("P2P heat map: star" in text for text in texts) == 3
    drawn = pictures[1:5]
    assert all(not np.array_equal(one, other) for i, one in enumerate(drawn) for other in drawn[:i])
    assert np.array_equal(webui.job(prompt=SOURCE, **SMALL)[0], plain)


def test_a_source_alone_is_the_plain_picture_and_edits_keep_to_it(webui):
    plain = webui.job(prompt=SOURCE, **SMALL)[0].astype(int)
    held, _ = edit(webui, {"edits": EDITS[0], "blend": "star", "threshold": 1, "start": 0})
    assert np.abs(held[1] - plain).max() <= 2 and np.abs(held[2] - held[1]).max() <= 1


@pytest.mark.parametrize("hires", [False, True])
def test_edits_in_the_hires_pass(webui, hires):
    pictures, _ = edit(webui, {"edits": EDITS[0], "hires": hires}, **HIRES)
    assert pictures[1].shape == (192, 192, 3)
    assert len(webui.did("cross-attention")) == 1 + hires
