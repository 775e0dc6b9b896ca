"""The script "Accel A/B" in a real WebUI. Skipped without A1111_ROOT."""

import threading
import time

import numpy as np
import pytest
import real_webui

pytestmark = real_webui.needs("A1111_ROOT")

ON = {"enabled": True, "preset": "Fast", "auto": False}
FIELDS = {"prompt": "a large red star", "seed": 1, "sampler_name": "Euler a", "width": 128, "height": 128, "steps": 12, "cfg_scale": 7}


@pytest.fixture(scope="module")
def webui(tmp_path_factory):
    others = [real_webui.OWN / name for name in ("witness", "detailer")]
    server = real_webui.WebUI(tmp_path_factory.mktemp("ab"), others=others)
    yield server
    server.stop()


def compare(webui, accel=ON, repeats=1, warm_up=False, tab="txt2img", scripts=None, **fields):
    """(pictures with the sheet first, what the comparison tells, the infotexts) of a comparison."""
    alwayson = {"accel": {"args": [accel]}} | {name: {"args": args} for name, args in (scripts or {}).items()}
    body = (
        FIELDS
        | {"script_name": "Accel A/B", "script_args": [{"repeats": repeats, "warm_up": warm_up}], "alwayson_scripts": alwayson}
        | fields
    )
    status, answer = webui.post(f"/sdapi/v1/{tab}", body)
    assert status == 200, answer
    told = webui.told(answer)
    return [real_webui.pixels(text) for text in answer["images"]], " ".join(webui.account["comments"]), told


def test_both_pictures_are_those_of_jobs_of_their_own(webui):
    webui.get("/witness/rows")
    plain, fast = (webui.job(accel, **FIELDS) for accel in (None, ON))
    alone = webui.get("/witness/rows")[1]
    (_, *shown), result, told = compare(webui, repeats=2, warm_up=True)
    assert [np.array_equal(a, b) for a, b in zip(shown, (plain[0], fast[0]), strict=True)] == [True, True]
    assert told[1] == plain[1] and "Accel: Fast" in told[2] and "Ratio " in result
    assert sorted(webui.get("/witness/rows")[1]) == sorted(alone * 3)


@pytest.mark.parametrize("ticked", [True, False])
def test_jobs_inside_follow_their_side(webui, ticked):
    """As ADetailer with `accel` on its list of scripts. Nothing here serves whole calls, which the witness would not see."""
    webui.get("/witness/rows")
    guidance = {"enabled": ticked, "preset": "Custom", "auto": False, "guidance.on": True, "guidance.when": "after", "guidance.after": 0.5}
    compare(webui, guidance, scripts={"detailer": [True, "accel"]})
    rows = webui.get("/witness/rows")[1]
    half = len(rows) // 2
    assert set(rows[:half]) == {2}, "plain"
    outer, inner = rows[half : half + 12], rows[half + 12 :]
    assert sum(outer) < 24 and sum(inner) < 2 * len(inner), "accelerated"


def test_masks_are_not_taken_for_pictures(webui):
    picture = webui.job(**FIELDS)[0]
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[32:96, 32:96] = 255
    given = {"init_images": [real_webui.encoded(picture)], "mask": real_webui.encoded(mask), "denoising_strength": 0.7}
    fields = {"batch_size": 2, "override_settings": {"return_mask": True, "return_mask_composite": True}, "inpaint_full_res": False}
    images, result, told = compare(webui, tab="img2img", **given, **fields)
    assert len(images) == len(told) == 1 + 2 + 2
    assert "Picture 1: PSNR" in result and "Picture 2: PSNR" in result and "identical" not in result


def test_a_skipped_picture_of_two_is_noticed(webui):
    def skip():
        for _ in range(600):
            if webui.get("/sdapi/v1/progress?skip_current_image=true")[1]["state"]["sampling_step"] >= 3:
                webui.post("/sdapi/v1/skip", {})
                return
            time.sleep(0.05)

    other = threading.Thread(target=skip)
    other.start()
    _, result, _ = compare(webui, n_iter=2, steps=60)
    other.join()
    assert "plain: stopped early; its picture is unfinished" in result and "Ratio" not in result and "not reproducible" not in result
