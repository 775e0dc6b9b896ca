"""The script "Accel A/B": order of the runs, what is shown, kept, counted and told; failures and interruptions."""

import json
import types

import gradio as gr
import numpy as np
import pytest
from acting import did
from comparing import ON, compare
from harness import PROJECT, pixels
from PIL import Image


@pytest.fixture
def jobs(host, monkeypatch):
    """The jobs that the script starts, in order: (accelerated, saved)."""
    started = []
    run = host.processing.process_images

    def process_images(p):
        from lib_accel.webui.jobs import job

        started.append((job._forced, not getattr(p, "do_not_save_samples", False)))
        return run(p)

    monkeypatch.setattr(host.processing, "process_images", process_images)
    return started


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_both_pictures_are_the_jobs_own_with_their_own_png_info(host, tab):
    plain, fast = host.job(tab), host.job(tab, ON)
    done = compare(host, tab=tab)
    sheet, *shown = pixels(done)
    assert [np.array_equal(a, b) for a, b in zip(shown, [*pixels(plain), *pixels(fast)])] == [True, True]
    assert done.index_of_first_image == 1 and len(done.infotexts) == 3
    assert done.infotexts[1] == plain.infotexts[0]
    assert "Accel" not in done.infotexts[1]
    assert "Accel: Custom" in done.infotexts[2] and "Accel merging ratio: 0.6" in done.infotexts[2]
    assert "Script" not in done.infotexts[2]
    assert did(done, "merging", 3)
    assert sheet.shape[1] > 3 * shown[0].shape[1]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_accordion_need_not_be_ticked(host, enabled):
    done = compare(host, accel=ON | {"enabled": enabled})
    assert did(done, "merging", 3, (5, 5))
    assert "Pictures: PSNR" in done.comments


def test_order_alternates_and_only_the_first_run_of_each_is_saved(host, jobs):
    done = compare(host, repeats=2)
    assert jobs == [(False, True), (True, True), (True, False), (False, False), (False, False), (True, False)]
    assert done.comments.count("(median of ") == 2
    assert "Not counted, to warm up: plain " in done.comments
    assert "Ratio " in done.comments
    jobs.clear()
    done = compare(host, repeats=1, warm_up=False)
    assert jobs == [(False, True), (True, True)]
    assert "No warm-up: the first run of each side is counted" in done.comments


def test_the_sheet_tells_what_was_found_and_with_what(host):
    from modules.infotext_utils import parse_generation_parameters

    told = parse_generation_parameters(compare(host, repeats=2, gain=8).infotexts[0])
    assert told["Script"] == "Accel A/B"
    assert (told["Accel A/B repeats"], told["Accel A/B warm up first"], told["Accel A/B amplify the difference"]) == ("2", "True", "8")
    assert "Ratio " in told["Accel A/B result"] and told["Accel"] == "Custom"


def test_the_sheet_is_saved_as_the_hosts_grids_are(host):
    from modules import images

    host.shared.opts.data.update(grid_save=True, grid_format="png")
    done = compare(host, outpath_grids="grids")
    ((sheet, path, name, more),) = images.saved
    assert sheet is done.images[0] and (path, name) == ("grids", "accel_ab")
    assert sheet.info["parameters"] == done.infotexts[0]
    assert more["info"] == done.infotexts[0] and more["extension"] == "png" and more["grid"]


def test_every_picture_of_batches_is_compared(host):
    done = compare(host, batch_size=2, n_iter=2)
    assert len(done.images) == len(done.infotexts) == 1 + 4 + 4
    assert [f"Picture {i}: PSNR" in done.comments for i in (1, 2, 3, 4)] == [True] * 4
    assert done.comments.count("for 10 of 10 steps") == 1


def test_the_seed_is_fixed_once_and_the_hosts_job_stays_as_it_was(host):
    p = host.p("txt2img", ON, seed=-1)
    before = dict(vars(p))
    script = host.script("txt2img", "Accel A/B")
    host.shared.state.begin("job")
    done = script.run(p, 1, False, 4)
    assert {key: vars(p)[key] for key in before} == before and p.extra_generation_params == {}
    seeds = [text.split("Seed: ")[1].split(",")[0] for text in done.infotexts]
    assert seeds[0] != "-1" and len(set(seeds)) == 1


def test_identical_pictures_are_called_identical(host):
    done = compare(host, accel={"enabled": True, "preset": "Custom"})
    assert "Pictures: identical." in done.comments


def test_what_accel_refuses_is_told_and_both_pictures_are_plain(host):
    done = compare(host, accel={"enabled": True, "merging.ratio": 7})
    assert "Accel is off for this job: merging.ratio is 7; it must be a number from 0 to 1." in done.comments
    assert "Pictures: identical." in done.comments


def test_bad_values_of_the_script_cost_nothing(host):
    done = compare(host, repeats="many", gain=99)
    assert "Accel A/B: Repeats is 'many'; it must be a whole number from 1 to 20. 2 was used." in done.comments
    assert "Accel A/B: Amplify the difference is 99; it must be a whole number from 1 to 32. 4 was used." in done.comments
    assert len(done.images) == 3


def test_a_skipped_first_run_is_replaced_by_a_finished_one_that_is_saved(host, monkeypatch, jobs):
    once = []

    def skip(state):
        if len(jobs) == 1 and not once:
            once.append(state.skip())

    whole = pixels(host.job())
    jobs.clear()
    host.callbacks.on_cfg_denoiser(lambda params: skip(host.shared.state))
    done = compare(host, repeats=1)
    assert jobs == [(False, True), (True, True), (True, False), (False, True)]
    assert np.array_equal(pixels(done)[1], whole[0]) and "stopped early" not in done.comments


def test_masks_among_the_pictures_are_not_compared(host, monkeypatch):
    """The host puts a picture's mask right behind it, without PNG info."""
    run = host.processing.process_images

    def process_images(p):
        done = run(p)
        done.images = [image for picture in done.images for image in (picture, picture.convert("L").convert("RGB"))]
        for mask in done.images[1::2]:
            mask.info.clear()
        return done

    monkeypatch.setattr(host.processing, "process_images", process_images)
    done = compare(host, batch_size=2)
    assert len(done.images) == len(done.infotexts) == 1 + 2 + 2
    assert "Picture 2: PSNR" in done.comments and "identical" not in done.comments


def test_prompts_are_encoded_in_every_run(host, monkeypatch):
    """They belong to the time of a job; the host keeps them for the next one in lists that all jobs share."""
    seen = []
    run = host.processing.process_images
    p = host.p("txt2img", ON)
    p.cached_c = ["of the last job", 1]
    script = host.script("txt2img", "Accel A/B")
    monkeypatch.setattr(host.processing, "process_images", lambda mine: (seen.append(mine.cached_c), run(mine))[1])
    script.run(p, 1, False, 4)
    assert seen == [[None, None], [None, None]] and seen[0] is not seen[1] and p.cached_c[1] == 1


@pytest.mark.parametrize(("breaks", "left"), [(True, "plain"), (False, "accelerated")])
def test_a_side_that_fails_is_told_and_the_other_one_is_kept(host, monkeypatch, breaks, left):
    run, count = host.processing.process_images, []

    def process_images(p):
        from lib_accel.webui.jobs import job

        count.append(p)
        if job._forced is breaks:
            raise RuntimeError("out of memory")
        return run(p)

    monkeypatch.setattr(host.processing, "process_images", process_images)
    # The double lets no noted exception pass otherwise.
    monkeypatch.setattr(host.runners["txt2img"], "tolerant", True)
    done = compare(host, repeats=2)
    host.errors.reports.clear()
    assert "failed: RuntimeError: out of memory" in done.comments and f"{left}: " in done.comments
    assert len(done.images) == len(done.infotexts) == 1
    assert len(count) == 1 + 3


def test_without_any_picture_the_error_is_the_hosts_to_show(host, monkeypatch):
    monkeypatch.setattr(host.processing, "process_images", lambda p: 1 / 0)
    with pytest.raises(RuntimeError, match="plain failed: ZeroDivisionError"):
        compare(host)
    host.errors.reports.clear()


def test_every_label_and_hint_is_in_the_chinese_localization(host):
    from lib_accel.webui.ab import script

    words = json.loads((PROJECT / "localizations" / "zh_CN.json").read_text(encoding="utf-8"))
    assert {script.TITLE, script.INTRODUCTION, *script.RULES, *script.HINTS.values()} <= set(words)
    for name, label_of in (("guide.md", str), ("guide.zh.md", words.get)):
        guide = (PROJECT / "docs" / name).read_text(encoding="utf-8")
        assert all(f"*{label_of(label)}*" in guide for label in script.RULES)
    with gr.Blocks():
        labels = [component.label for component in host.script("txt2img", "Accel A/B").ui(False)]
    assert labels == list(script.RULES)


def test_the_difference_picture_is_amplified_and_never_wraps_around(host):
    from PIL import Image

    from lib_accel.webui.ab.result import difference_picture

    a, b = (Image.fromarray(np.full((2, 2, 3), value, np.uint8)) for value in (10, 100))
    assert np.asarray(difference_picture(a, b, 2)).max() == 180
    assert np.asarray(difference_picture(b, a, 9)).min() == 255


@pytest.mark.parametrize("info", [True, False], ids=["with PNG info", "without"])
@pytest.mark.parametrize("masks", [0, 1, 2])
def test_only_the_jobs_own_pictures_are_compared(host, monkeypatch, info, masks):
    """Masks come behind each picture, where options ask for them; ControlNet's maps come behind all, as many as there are pictures."""
    from lib_accel.webui.jobs import started

    kinds = ["return_mask", "return_mask_composite"]
    images, texts = [Image.new("RGB", (8, 8))], ["grid", "first", "second"]
    for text in texts[1:]:
        own = Image.new("RGB", (8, 8))
        own.info |= {"parameters": text} if info else {}
        images += [own, *(Image.new("RGB", (8, 8)) for _ in range(masks))]
    own = images[1 :: 1 + masks]
    maps = [Image.new("RGB", (8, 8)) for _ in own]
    done = types.SimpleNamespace(images=images + maps, infotexts=texts, index_of_first_image=1)
    p = types.SimpleNamespace(
        mask_for_overlay=Image.new("L", (8, 8)) if masks else None, override_settings=dict.fromkeys(kinds[:masks], True)
    )
    pictures, infotexts = started.pictures_of(done, p)
    assert [id(picture) for picture in pictures] == [id(picture) for picture in own] and infotexts == ["first", "second"]
    # Without a mask the options ask for nothing.
    p = types.SimpleNamespace(mask_for_overlay=None, override_settings=dict.fromkeys(kinds, True))
    done.images = [images[0], *own, *maps]
    assert [id(picture) for picture in started.pictures_of(done, p)[0]] == [id(picture) for picture in own]
