"""The script Prompt-to-Prompt: what is kept, saved and told of its pictures when something comes between."""

import numpy as np
import pytest
import torch
from editing import SOURCE, SWAP, close, draw, parsed, told
from harness import pixels
from PIL import Image

EDITS = {"edits": "cat -> dog\n+ hat\ncat -> bird", "at_once": 2}


@pytest.fixture
def saved(host):
    from modules import images

    host.shared.opts.defaults.update(samples_save=False, samples_format="png")
    host.shared.opts.data["samples_save"] = True
    return images.saved


def skip_once(host, at):
    """The next job's sampling is skipped at its step of that number, from 0."""
    skipped = []

    def skip(params):
        if host.shared.state.sampling_step >= at and not skipped:
            skipped.append(host.shared.state.skip())

    host.callbacks.on_cfg_denoiser(skip)


def test_masks_among_the_pictures_are_not_taken_for_edits(host, monkeypatch):
    """The host puts a picture's masks right behind it, without PNG info."""
    whole = draw(host, EDITS, steps=2)
    assert len(whole.images) == 1 + 1 + 3
    run = host.processing.process_images

    def process_images(p):
        done = run(p)
        masks = [[Image.new("RGB", image.size) for _ in range(2)] for image in done.images]
        done.images = [image for picture, behind in zip(done.images, masks) for image in (picture, *behind)]
        return done

    monkeypatch.setattr(host.processing, "process_images", process_images)
    done = draw(host, EDITS, steps=2)
    assert all(np.array_equal(a, b) for a, b in zip(pixels(done)[1:], pixels(whole)[1:], strict=True))


def test_pictures_are_saved_by_the_options_that_the_job_brings(host, saved):
    p = {"override_settings": {"samples_format": "jpg"}, "outpath_samples": "samples", "steps": 2}
    draw(host, SWAP, **p)
    assert [more["extension"] for _, _, _, more in saved] == ["jpg", "jpg"]
    assert [more["p"].batch_index for _, _, _, more in saved] == [1, 1], "one job, asked for each picture's place"
    assert host.shared.opts.samples_format == "png"
    del saved[:]
    draw(host, SWAP, **p | {"override_settings": {"samples_save": False}})
    assert saved == []


def test_a_picture_that_cannot_be_saved_is_shown_and_told(host, saved, monkeypatch):
    from modules import images

    def full(*args, **more):
        raise OSError("No space left on device")

    monkeypatch.setattr(images, "save_image", full)
    monkeypatch.setattr(host.runners["txt2img"], "tolerant", True)
    done = draw(host, SWAP, steps=2, outpath_samples="samples")
    host.errors.reports.clear()
    assert len(done.images) == 3 and "A picture could not be saved: OSError: No space left on device." in done.comments


def test_every_batch_has_the_same_source(host, jobs):
    """Also where only one of them has a prompt that needs more chunks."""
    draw(host, {"edits": "+ of a very very long tail\ncat -> dog", "at_once": 2}, steps=2)
    assert [p.prompts[0] for p in jobs] == [f"{SOURCE} BREAK BREAK BREAK BREAK"] * 2
    assert torch.equal(*[p.c.batch[0][0].schedules[0].cond for p in jobs])


def test_a_whole_source_takes_the_place_of_one_that_was_skipped(host, saved):
    whole = pixels(draw(host, EDITS, outpath_samples="samples"))
    del saved[:]
    skip_once(host, at=0)
    done = draw(host, EDITS, outpath_samples="samples")
    assert "A batch was stopped early; its pictures are unfinished." in done.comments
    shown = pixels(done)
    assert close(shown[1], whole[1]) and not close(shown[2], whole[2]) and close(shown[4], whole[4])
    # What is unfinished is not saved, as the host's option says.
    infotexts = [more["info"] for _, _, _, more in saved]
    assert sorted(infotexts) == sorted(done.infotexts[place] for place in (1, 3, 4))
    host.shared.opts.data["save_incomplete_images"] = True
    del saved[:]
    skip_once(host, at=0)
    draw(host, EDITS, outpath_samples="samples")
    assert len(saved) == 5


@pytest.mark.parametrize(
    ("settings", "place", "keys"),
    [
        ({"cross": "0.8; lion 0.4"}, 2, {"P2P cross window": "0.8"}),
        ({"cross": "0.8; lion 0.4"}, 3, {"P2P cross window": "0.8; lion 0.4"}),
        ({"cross": "lion 0.4"}, 2, {"P2P cross window": "1"}),
        ({"blend": "cat : dog, lion"}, 2, {"P2P blend words": "cat : dog"}),
        ({"blend": "cat", "subtract": "lion"}, 2, {"P2P blend words": "cat"}),
    ],
)
def test_one_picture_of_many_lines_pastes_back_without_the_words_of_the_others(host, settings, place, keys):
    from modules.infotext_utils import pasted

    done = draw(host, {"edits": "cat -> dog\ncat -> lion", **settings}, steps=2)
    text = done.infotexts[place]
    assert keys.items() <= told(text).items()
    script = host.script("txt2img", "Prompt-to-Prompt")
    values = pasted(host.runners["txt2img"].infotext_fields, text)
    again = draw(host, [values.get(control, control.value) for control in script.controls], steps=2)
    assert close(again.images[2], done.images[place])


def test_the_same_picture_for_each_of_a_batch_is_one_picture(host, jobs):
    """So the Batch tab gives it."""
    picture = pixels(host.job())[0]
    jobs.clear()
    draw(host, SWAP, tab="img2img", init_images=[picture, picture], batch_size=2, steps=2)
    assert all(len(p.init_images) == 1 for p in jobs)


def test_a_hires_prompt_that_is_the_prompt_is_none(host):
    fields = {"enable_hr": True, "hr_scale": 2.0, "steps": 2}
    empty, same = (draw(host, SWAP, **fields, hr_prompt=prompt) for prompt in (None, SOURCE))
    assert np.array_equal(pixels(same)[2], pixels(empty)[2])


def test_masks_are_cut_as_the_host_cuts_latents(host):
    from lib_accel.webui.prompt_to_prompt.batch import enlarged

    mask = torch.zeros(8, 8)
    mask[2:6, 2:6] = 1
    # From a square to twice as wide: enlarged to 16x16, then four rows go above and four below.
    cut = enlarged(mask, (8, 16), (8, 0))
    assert cut.shape == (8, 16) and cut.sum() == 8 * 8 and cut[:, 4:12].all()
    assert torch.equal(enlarged(mask, (16, 16), (0, 0)), torch.kron(mask, torch.ones(2, 2)))


def test_prompts_that_another_extension_made_equal_are_told(host, monkeypatch):
    setup = host.processing.StableDiffusionProcessing.setup_conds

    def all_alike(p):
        p.prompts = [p.prompts[0]] * len(p.prompts)
        setup(p)

    monkeypatch.setattr(host.processing.StableDiffusionProcessing, "setup_conds", all_alike)
    done = draw(host, SWAP, steps=2)
    assert "nothing edited, because another extension changed the prompts after the edits were prepared" in done.comments
    assert "layers for" not in done.comments


def test_a_threshold_of_an_axis_is_that_of_the_slider_for_words_left_out_too(host):
    """So its picture, whose PNG info has the one threshold, pastes back."""
    from lib_accel.webui.prompt_to_prompt import checking

    given = {**SWAP, "blend": "cat", "subtract": "red", "start": 0}
    blends = []
    for more in ({"y": "Blend threshold", "y_values": "0.9", "threshold": 0.1}, {"threshold": 0.9}):
        edits, plan = checking.prepared(host.p(prompt=SOURCE), ({**given, **more},))
        blends.append(edits.local_blend(plan.cells()[0].threshold))
    assert blends[0] == blends[1]
    axis, slider = (draw(host, {**given, **more}, steps=3) for more in ({"y": "Blend threshold", "y_values": "0.9"}, {"threshold": 0.9}))
    assert close(axis.images[2], slider.images[2])


@pytest.mark.parametrize("edits", ["cat -> dog*1.5", "a red dog; red*2", "dog*2; = a red dog", "red*2"])
@pytest.mark.parametrize("fields", [{}, {"prompt": f"{SOURCE} <lora:x:1>"}, {"styles": ["oil"]}])
def test_a_picture_beside_a_longer_one_pastes_back(host, edits, fields):
    """Its prompt was drawn as long as that of the other line."""
    from modules.infotext_utils import pasted

    host.shared.prompt_styles.styles = {"oil": ("oil", "")}
    given = {"edits": f"{edits}\n+ of a very very very long tail", "blend": "cat : dog" if "a red dog" in edits else "cat", "start": 0}
    done = draw(host, given, steps=2, **fields)
    params = parsed(done.infotexts[2])
    host.callbacks.dispatch("infotext_pasted", done.infotexts[2], params)
    script = host.script("txt2img", "Prompt-to-Prompt")
    values = pasted(host.runners["txt2img"].infotext_fields, done.infotexts[2])
    args = [values.get(control, control.value) for control in script.controls]
    again = draw(host, args, prompt=params["Prompt"], styles=params.get("Styles array", []), steps=2)
    assert close(again.images[2], done.images[2]) and close(again.images[1], done.images[1])
    assert "All prompts were made as long as the longest, " in done.comments
