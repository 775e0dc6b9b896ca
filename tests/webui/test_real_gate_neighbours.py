"""T-GATE and guidance skipping with an inpainting checkpoint, and beside ControlNet, in a real WebUI. What the U-Net was given is counted
by a witness. Skipped without A1111_ROOT, and A1111_INPAINTING or A1111_CONTROLNET."""

import numpy as np
import pytest
import real_webui
from real_webui import encoded

from lib_accel.core.schedule import first_step

STEPS, GATE = 10, 4
FIELDS = {"width": 128, "height": 128, "steps": STEPS, "cfg_scale": 7}
BARE = {"enabled": True, "preset": "Custom", "auto": False}
QUALITY = {"enabled": True, "preset": "Quality", "auto": False}
AFTER = {"guidance.on": True, "guidance.when": "after", "guidance.after": 0.4}
# Settings, and the steps that run all rows of ten.
WAYS = {
    "gate": ({"tgate.on": True, "tgate.gate": 0.4}, GATE),
    "published gate": ({"tgate.on": True, "tgate.gate": 0.4, "tgate.after_gate": "uncond", "tgate.cache": "mean"}, GATE),
    "guidance": (AFTER, GATE),
    "kept direction": (AFTER | {"guidance.reuse": True, "guidance.every": 2}, GATE + 3),
}
LONG = "a red star, " * 40
JOBS = {
    "plain": {},
    "long": {"prompt": LONG},
    "and": {"prompt": "a red star AND a blue ring :0.6"},
    "batch": {"batch_size": 2},
    "apart": {"override_settings": {"batch_cond_uncond": False}},
}
# Rows of a step before the gate, and after it.
ROWS = {"plain": (2, 1), "long": (2, 1), "and": (3, 2), "batch": (4, 2), "apart": (2, 1)}
PICTURE = np.stack([(np.indices((128, 128)).sum(0) % 64 * 4).astype(np.uint8)] * 3, 2)
REFERENCE = {"controlnet": [{"enabled": True, "module": "reference_only", "model": "None", "image": encoded(PICTURE)}]}
MASK = np.pad(np.full((64, 64), 255, np.uint8), 32)


def start(data, checkpoint, *others):
    server = real_webui.WebUI(data, checkpoint=checkpoint, others=[real_webui.OWN / "witness", *others])
    # Options that were never stored are not put back after a job that overrides them.
    assert server.post("/sdapi/v1/options", {"batch_cond_uncond": True, "s_min_uncond_all": False})[0] == 200
    return server


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory):
    server = start(tmp_path_factory.mktemp("inpainting"), real_webui.named("A1111_INPAINTING"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    checkpoint = real_webui.named("A1111_CONTROLNET_CHECKPOINT")
    server = start(tmp_path_factory.mktemp("controlled"), checkpoint, real_webui.named("A1111_CONTROLNET"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def unit(controlled):
    """Makes the arguments for one of ControlNet's units, with its first model."""
    models = controlled.get("/controlnet/model_list")[1]["model_list"]
    if not models:
        pytest.skip("ControlNet has no model")
    given = {"enabled": True, "module": "none", "model": models[0], "image": encoded(PICTURE), "weight": 1.0}
    return lambda **more: {"controlnet": [given | more]}


def check(webui, way, rows, fields, steps=STEPS):
    """The picture with a method on: before and after it plain ones are the same, and the rows of every step are as they should be."""
    settings, full = WAYS[way]
    # In image to image the host draws from the global generator as the last job left it.
    webui.job(**fields)
    plain = webui.job(**fields)[0]
    traces = webui.get("/witness/traces")[1]
    webui.get("/witness/rows")
    picture, told = webui.job(BARE | settings, **fields)
    seen = webui.get("/witness/rows")[1]
    if steps != STEPS:
        full = first_step(0.4, steps)
    assert sum(seen) == full * rows[0] + (steps - full) * rows[1], told
    assert webui.saved() == (steps - full) * (rows[0] - rows[1]) and not webui.failures()
    if "gate" in way:
        (served,), (method,) = webui.did("cross-attention served"), webui.methods()
        assert served[1:] == (steps - full, steps) and method["unguided_steps"] == steps - full
    assert not np.array_equal(picture, plain)
    assert np.array_equal(webui.job(infotext=told, **fields)[0], picture)
    assert np.array_equal(webui.job(**fields)[0], plain)
    assert webui.get("/witness/traces")[1] == traces
    return picture


class TestInpainting:
    pytestmark = real_webui.needs("A1111_INPAINTING")

    @pytest.mark.parametrize("job", JOBS)
    @pytest.mark.parametrize("way", WAYS)
    def test_pictures_of_text(self, inpainting, way, job):
        check(inpainting, way, ROWS[job], FIELDS | JOBS[job])

    @pytest.mark.parametrize("way", ["gate", "published gate", "guidance"])
    def test_pictures_of_pictures(self, inpainting, way):
        fields = {
            "tab": "img2img",
            "init_images": [encoded(PICTURE)],
            "mask": encoded(MASK),
            "denoising_strength": 0.7,
            "inpainting_fill": 1,
        }
        check(inpainting, way, (2, 1), FIELDS | fields, steps=int(0.7 * STEPS) + 1)

    def test_where_the_host_fails_to_skip_the_negative_prompt_by_itself(self, inpainting):
        ngms = FIELDS | {"s_min_uncond": 1e6, "override_settings": {"s_min_uncond_all": True}}
        with pytest.raises(AssertionError, match="Sizes of tensors must match"):
            inpainting.job(**ngms)
        inpainting.get("/witness/rows")
        inpainting.job(BARE | WAYS["gate"][0], **ngms)
        assert inpainting.get("/witness/rows")[1] == [1] * STEPS and "guidance was left to the WebUI" in inpainting.reasons()
        with pytest.raises(AssertionError, match="Sizes of tensors must match"):
            inpainting.job(**ngms)


class TestControlNet:
    pytestmark = real_webui.needs("A1111_CONTROLNET")

    @pytest.mark.parametrize("job", JOBS)
    @pytest.mark.parametrize("way", WAYS)
    def test_its_models(self, controlled, unit, way, job):
        # Its first job leaves its own on the U-Net.
        controlled.job(scripts=unit(), **FIELDS)
        fields = FIELDS | JOBS[job]
        picture = check(controlled, way, ROWS[job], fields | {"scripts": unit()})
        # It goes on after the gate.
        until_gate = controlled.job(BARE | WAYS[way][0], scripts=unit(guidance_end=0.4), **fields)[0]
        assert not np.array_equal(picture, until_gate)
        assert not np.array_equal(picture, controlled.job(BARE | WAYS[way][0], **fields)[0])

    @pytest.mark.parametrize("mode", ["My prompt is more important", "ControlNet is more important"])
    def test_its_control_modes(self, controlled, unit, mode):
        controlled.job(scripts=unit(), **FIELDS)
        check(controlled, "gate", (2, 1), FIELDS | {"scripts": unit(control_mode=mode)})

    def test_its_reference_keeps_every_row(self, controlled):
        plain = controlled.job(**FIELDS)[0]
        with_reference = controlled.job(scripts=REFERENCE, **FIELDS)[0]
        controlled.job(BARE | WAYS["gate"][0], scripts=REFERENCE, **FIELDS)
        assert "T-GATE off: ControlNet's reference needs every row of every step" in controlled.reasons()
        assert np.array_equal(controlled.job(scripts=REFERENCE, **FIELDS)[0], with_reference)
        assert np.array_equal(controlled.job(**FIELDS)[0], plain)

    @pytest.mark.parametrize("settings", [BARE | WAYS["gate"][0], QUALITY], ids=["gate", "quality"])
    def test_what_its_reference_leaves_behind_counts_for_nothing(self, controlled, settings):
        fields = FIELDS | {"steps": 20, "sampler_name": "Euler"}

        def ran(**more):
            controlled.get("/witness/rows")
            picture = controlled.job(settings, **fields, **more)[0]
            assert not controlled.failures()
            return picture, controlled.get("/witness/rows")[1], controlled.reasons()

        plain = controlled.job(**fields)[0]
        picture, *before = ran()
        assert sum(before[0]) < 2 * 20 and "needs every row" not in before[1]
        with_reference, rows, reasons = ran(scripts=REFERENCE)
        # In every step the U-Net runs on its picture, too.
        assert rows == [2] * 2 * 20 and "off: ControlNet's reference needs every row of every step" in reasons
        assert np.array_equal(controlled.job(scripts=REFERENCE, **fields)[0], with_reference) and not np.array_equal(with_reference, plain)
        again, *after = ran()
        assert after == before and np.array_equal(again, picture)
        assert np.array_equal(controlled.job(**fields)[0], plain)
