"""The script Prompt-to-Prompt in the host double: the jobs that it starts, what comes of them, what is refused, what is left behind."""

import numpy as np
import pytest
from editing import SOURCE, draw, prepare, told
from harness import pixels, same

from lib_accel.settings import SettingError

SWAP = {"edits": "cat -> dog"}
ON = {"enabled": True, "preset": "Custom", "auto": False, "merging.on": True, "merging.ratio": 0.6, "agents.on": False, "first_pass": True}


@pytest.fixture
def jobs(host, monkeypatch):
    """The jobs that are started, in order."""
    started = []
    run = host.processing.process_images

    def process_images(p):
        started.append(p)
        return run(p)

    monkeypatch.setattr(host.processing, "process_images", process_images)
    return started


def close(one, other):
    """Whether two pictures are the same but for rounding, which depends on the size of the batch."""
    return np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max() <= 1


def test_a_batch_is_the_source_and_its_edits_from_equal_seeds(host, jobs):
    done = draw(host, {"edits": "cat -> dog\n+ hat\nred*-1"}, seed=7, negative_prompt="bad")
    (p,) = jobs
    assert p.prompt == [SOURCE, "a red dog", "a red cat, hat", SOURCE]
    assert (p.seed, len(p.subseed), p.batch_size, p.n_iter) == ([7] * 4, 4, 4, 1)
    assert len(done.images) == len(done.infotexts) == 1 + 1 + 3 and done.index_of_first_image == 1
    assert len({image.tobytes() for image in done.images[1:]}) == 4


def test_the_source_and_what_is_without_control_are_the_plain_pictures(host):
    done = draw(host, {**SWAP, "cross": "1", "self": "1", "self_layers": "all", "off": True})
    _, source, edited, off = done.images
    assert close(source, host.job(prompt=SOURCE, steps=4).images[0])
    assert close(off, host.job(prompt="a red dog", steps=4).images[0])
    assert len({image.tobytes() for image in (source, edited, off)}) == 3


def test_windows_of_nothing_are_no_control(host):
    done = draw(host, {**SWAP, "cross": "0", "self": "0", "off": True})
    assert np.array_equal(pixels(done)[2], pixels(done)[3])
    assert "PromptToPrompt: 0 of 7 layers" in done.comments


def test_many_edits_come_in_batches_that_each_have_the_source(host, jobs):
    done = draw(host, {"edits": "\n".join(f"cat -> dog{i}" for i in range(9)), "at_once": 4}, steps=2)
    assert [len(p.prompt) for p in jobs] == [4, 4, 4]
    assert {p.prompt[0] for p in jobs} == {SOURCE}
    assert len(done.images) == 1 + 1 + 9 and host.shared.state.job_no == 3
    assert "9 pictures of 9 edits, 1 source" in done.comments


def test_the_batch_count_counts_seeds_and_so_does_an_axis(host, jobs):
    done = draw(host, SWAP, seed=5, n_iter=2, batch_size=1, steps=2)
    assert [p.seed for p in jobs] == [[5, 5], [6, 6]]
    assert done.index_of_first_image == 2 and len(done.images) == 2 + 2 + 2
    jobs.clear()
    done = draw(host, {**SWAP, "x": "Seed", "x_values": "8, 3", "y": "Edit"}, steps=2)
    assert [p.seed[0] for p in jobs] == [8, 3]
    assert "Seed: 3" in done.infotexts[2] and told(done.infotexts[0])["P2P x values"] == "8, 3"


def test_the_line_tells_layers_and_steps_and_so_do_the_api_and_png_info(host):
    done = draw(host, SWAP, steps=5)
    line = "cross-attention on 7, self-attention on 1 of 7 layers for 4 of 5 steps"
    assert line in done.comments
    assert line in told(done.infotexts[0])["P2P result"]
    assert line in told(done.infotexts[2])["Accel report"]
    assert "P2P edits" not in done.infotexts[1]


def test_a_picture_pastes_back(host):
    from modules.infotext_utils import pasted

    settings = {
        "edits": "cat -> dog*2\n+ hat",
        "y": "Cross window",
        "y_values": "0.2, 0.9",
        "self": "0.1",
        "blend": "cat",
        "threshold": 0.6,
    }
    done = draw(host, settings)
    text = done.infotexts[done.index_of_first_image + 2]
    params = told(text)
    assert params["Prompt"] == "a red cat, hat"
    host.callbacks.dispatch("infotext_pasted", text, params)
    assert params["Prompt"] == SOURCE
    script = host.script("txt2img", "Prompt-to-Prompt")
    values = pasted(host.runners["txt2img"].infotext_fields, text)
    args = [values.get(control, control.value) for control in script.controls]
    assert args[:4] == ["+ hat", "auto", "0.2", "0.1"]
    again = draw(host, args)
    assert close(again.images[2], done.images[done.index_of_first_image + 2])
    # And so does the grid.
    values = pasted(host.runners["txt2img"].infotext_fields, done.infotexts[0])
    again = draw(host, [values.get(control, control.value) for control in script.controls])
    assert same(again, done)


def test_a_weight_of_an_axis_stands_in_the_pictures_png_info(host):
    done = draw(host, {"edits": "cat -> dog; red*2", "x": "Word weight", "x_values": "-1, 3"}, steps=2)
    assert [told(text)["P2P edits"] for text in done.infotexts[2:]] == ["cat -> dog; red*-1", "cat -> dog; red*3"]


def test_prompts_of_other_lengths_are_padded_before_they_are_encoded(host, jobs):
    draw(host, {"edits": "+ of a very very long tail\ncat -> dog"}, steps=2)
    (p,) = jobs
    assert p.prompts == [f"{SOURCE} BREAK BREAK BREAK BREAK", f"{SOURCE}, of a very very long tail", "a red dog BREAK BREAK BREAK BREAK"]
    assert "BREAK" not in "".join(p.all_prompts)
    assert [part.schedules[0].cond.shape[1] for (part,) in p.c.batch] == [20, 20, 20]


def test_styles_and_tags_go_to_all(host, jobs):
    done = draw(host, {"edits": "cat -> dog\na blue bird"}, prompt=f"{SOURCE} <lora:x:1>", styles=["oil"], steps=2)
    (p,) = jobs
    assert p.prompt == [f"{SOURCE} <lora:x:1>", "a red dog <lora:x:1>", "a blue bird <lora:x:1>"]
    assert [prompt.split(" BREAK")[0] for prompt in p.prompts] == ["a red cat , oil", "a red dog , oil", "a blue bird , oil"]
    assert told(done.infotexts[2])["P2P source"] == f"{SOURCE} <lora:x:1>"


REFUSED = [
    ({}, {}, "has no edit; write one per line"),
    ({"edits": "# only a remark"}, {}, "has no edit"),
    ({"edits": "dog -> cat"}, {}, "Line 1: 'dog' is not in the prompt; its words are a, red, cat"),
    ({"edits": "cat -> dog\ngreen*2"}, {}, "Line 2: .*the words a, red, cat"),
    ({"edits": "cat -> dog\na red cat"}, {}, "Line 2 is 'a red cat'; it changes nothing"),
    ({"edits": "a * b"}, {}, "Line 1 is 'a . b'; a weight is"),
    ({"edits": "+ hat", "kind": "replace"}, {}, "Line 1: edit is 'replace'"),
    ({"edits": "cat -> dog AND bird"}, {}, "Line 1: .*AND makes"),
    (SWAP, {"prompt": "a cat AND a dog"}, "AND makes"),
    (SWAP, {"prompt": "a [red:blue:0.5] cat"}, "change from step to step"),
    (SWAP, {"prompt": "a [red|blue] cat"}, "change from step to step"),
    ({"edits": "a dog <lora:y:1>"}, {"prompt": "a cat <lora:x:1>"}, "Line 1 has the tags <lora:y:1>, the source <lora:x:1>"),
    (SWAP, {"prompt": ["a cat", "a red cat"]}, "prompt is a list of 2"),
    (SWAP, {"enable_hr": True, "hr_prompt": "another"}, "needs an empty Hires prompt"),
    ({**SWAP, "blend": "bird"}, {}, "the words a, red, cat"),
    ({**SWAP, "blend": "cat : bird"}, {}, "Line 1: .*'bird'.* the words a, red, dog"),
    ({**SWAP, "blend": "a : b : c"}, {}, "one colon at most"),
    ({**SWAP, "subtract": "sky", "blend": "cat"}, {}, "the words a, red, cat"),
    ({**SWAP, "heat": "sky"}, {}, "the words a, red, cat"),
    ({**SWAP, "cross": "2"}, {}, "Cross window is 2.0"),
    ({**SWAP, "cross": "0.8; lion 0.4"}, {}, "word is 'lion'"),
    ({**SWAP, "self": "0.8-0.2"}, {}, "start <= end"),
    ({**SWAP, "self_layers": "left"}, {}, "Self-attention layers is 'left'"),
    ({**SWAP, "threshold": float("nan")}, {}, "Blend threshold is nan"),
    ({**SWAP, "x": "Colour"}, {}, "X axis is 'Colour'"),
    (SWAP, {"token_merging_ratio": 0.5}, "own token merging is on"),
]


@pytest.mark.parametrize(("settings", "fields", "sentence"), REFUSED)
def test_what_cannot_be_drawn_is_refused_before_anything_is(host, jobs, settings, fields, sentence):
    from lib_accel.webui.prompt_edit import host_text  # noqa: F401 - the host has to be there

    if "token_merging_ratio" in fields:
        host.processing.StableDiffusionProcessing.get_token_merging_ratio = lambda self, for_hr=False: self.token_merging_ratio
    with pytest.raises(SettingError, match=sentence):
        draw(host, settings, **fields)
    assert jobs == []


def test_models_without_blocks_and_other_unets_are_refused(host, jobs):
    host.sd_models.switch_to(host.model(kind="sd3"))
    with pytest.raises(SettingError, match="no transformer blocks"):
        draw(host, SWAP)
    host.sd_models.switch_to(host.model())
    host.sd_unet.current_unet = object()
    with pytest.raises(SettingError, match="the option sd_unet"):
        draw(host, SWAP)
    host.sd_unet.current_unet = None
    assert jobs == []


def test_arguments_by_place_by_name_and_missing(host, jobs):
    draw(host, ["cat -> dog"], steps=2)
    draw(host, ["cat -> dog", "refine", 0.5, None], steps=2)
    assert len(jobs) == 2
    with pytest.raises(SettingError, match="'word' is no setting"):
        draw(host, {"word": 1})


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("together", [True, False])
def test_kinds_of_models_and_of_batching(host, kind, together):
    host.sd_models.switch_to(host.model(kind=kind))
    host.shared.opts.batch_cond_uncond = together
    done = draw(host, {**SWAP, "edits": "cat -> dog\n+ a long hat", "blend": "cat : dog, hat"})
    assert "cross-attention on " in done.comments and "[local blend]" in done.comments


@pytest.mark.parametrize("fields", [{"sampler_name": "Heun"}, {"sampler_name": "DDIM", "steps": 5}, {"width": 136, "height": 72}])
def test_samplers_and_sizes(host, fields):
    assert "cross-attention on 7" in draw(host, SWAP, **fields).comments


def test_img2img(host):
    done = draw(host, SWAP, tab="img2img", steps=6, denoising_strength=0.6)
    assert "cross-attention on 7" in done.comments and len(done.images) == 3


def test_a_blend_that_lets_nothing_change_is_the_source(host):
    done = draw(host, {**SWAP, "blend": "cat", "threshold": 1, "start": 0})
    assert np.array_equal(pixels(done)[1], pixels(done)[2])
    done = draw(host, {**SWAP, "blend": "cat", "threshold": 0, "start": 0})
    free = draw(host, SWAP)
    assert close(done.images[2], free.images[2])


def test_in_the_hires_pass_only_weights_and_the_blend_go_on(host):
    fields = {"enable_hr": True, "hr_scale": 1.5, "steps": 3}
    done = draw(host, SWAP, **fields)
    assert "hires pass: Prompt-to-Prompt: nothing is re-weighted here" in done.comments
    done = draw(host, {"edits": "red*3"}, **fields)
    assert "hires pass: PromptToPrompt: cross-attention on 7 of 7 layers" in done.comments
    whole = draw(host, {**SWAP, "hires": True}, **fields)
    assert "hires pass: PromptToPrompt: cross-attention on 7, self-attention on 1 of 7" in whole.comments
    kept = draw(host, {**SWAP, "blend": "cat", "threshold": 1, "start": 0}, **fields)
    assert np.array_equal(pixels(kept)[1], pixels(kept)[2])


def test_the_accordion_goes_on_where_nothing_is_edited_and_says_so(host):
    done = draw(host, {**SWAP, "self_layers": "all"}, accel=ON)
    assert "Accel Custom: " in done.comments and "PromptToPrompt edits this layer" in done.comments
    assert "cross-attention on 7" in done.comments
    assert told(done.infotexts[2])["Accel"] == "Custom"
    assert "Accel" not in told(draw(host, SWAP).infotexts[2])


@pytest.mark.parametrize(
    "gated", [{"tgate.on": True, "tgate.gate": 0.5}, {"guidance.on": True, "guidance.when": "after", "guidance.after": 0.5}]
)
def test_guidance_may_be_left_out_beside_it(host, gated):
    done = draw(host, {**SWAP, "blend": "cat"}, accel={"enabled": True, "preset": "Custom", "auto": False, **gated}, steps=6)
    assert "cross-attention on 7" in done.comments and "evaluations saved" in done.comments and "[local blend]" in done.comments


def test_bad_values_of_the_accordion_cost_no_edit(host):
    done = draw(host, SWAP, accel={"enabled": True, "merging.ratio": 7})
    assert "Accel is off for this job: merging.ratio is 7" in done.comments
    assert "cross-attention on 7" in done.comments


def test_without_our_script_in_the_jobs_it_says_that_nothing_was_edited(host):
    runner = host.runners["txt2img"]
    runner.alwayson_scripts = [script for script in runner.alwayson_scripts if script.title() != "Accel"]
    assert "Accel took no part in the jobs, so nothing was edited" in draw(host, SWAP).comments


@pytest.mark.parametrize("how", ["interrupt", "skip", "stopping"])
def test_what_was_finished_is_kept(host, jobs, how):
    def stop(params):
        if len(jobs) == 2:
            if how == "stopping":
                host.shared.state.stopping_generation = True
            else:
                getattr(host.shared.state, how)()

    host.callbacks.on_cfg_denoiser(stop)
    done = draw(host, {"edits": "\n".join(f"cat -> dog{i}" for i in range(6)), "at_once": 3}, steps=3)
    kept = {"interrupt": 2, "skip": 6, "stopping": 4}[how]
    assert len(done.images) == len(done.infotexts) == 1 + 1 + kept
    if how == "skip":
        assert "A batch was stopped early; its pictures are unfinished." in done.comments
    else:
        assert f"Ended early: {6 - kept} of 6 pictures were not drawn." in done.comments
    host.callbacks.remove_callbacks_for_function(stop)


def test_a_batch_that_fails_costs_only_what_comes_after_it(host, monkeypatch):
    run, count = host.processing.process_images, []

    def process_images(p):
        count.append(p)
        if len(count) == 2:
            raise RuntimeError("out of memory")
        return run(p)

    monkeypatch.setattr(host.processing, "process_images", process_images)
    done = draw(host, {"edits": "cat -> dog\n+ hat", "at_once": 2}, steps=2)
    assert "Batch 2 of 2 failed and ended it: RuntimeError: out of memory." in done.comments
    assert len(done.images) == 3
    host.errors.reports.clear()


def test_the_hosts_job_stays_as_it_was_and_plain_jobs_are_plain(host):
    before = host.job(prompt=SOURCE)
    p = prepare(host, SWAP, seed=-1)
    fields = dict(vars(p))
    host.shared.state.begin("job")
    p.scripts.run(p, *p.script_args)
    assert {key: vars(p)[key] for key in fields} == fields and p.extra_generation_params == {}
    assert same(host.job(prompt=SOURCE), before)
    unet = host.shared.sd_model.model.diffusion_model
    assert all(not module._forward_pre_hooks and not module._forward_hooks and "forward" not in vars(module) for module in unet.modules())


def test_heat_maps_are_pictures_of_their_own(host):
    done = draw(host, {"edits": "cat -> dog", "heat": "red, dog"}, steps=2)
    words = [told(text).get("P2P heat map") for text in done.infotexts]
    # The source has no dog.
    assert words == [None, None, None, "red", "red", "dog"]
    assert len(done.images) == 6
    # Of a word that only one batch has.
    done = draw(host, {"edits": "cat -> dog\n+ hat", "heat": "hat", "at_once": 2}, steps=2)
    assert [told(text).get("P2P heat map") for text in done.infotexts] == [None, None, None, None, "hat"]


def test_pictures_are_saved_once_as_the_host_saves_them(host):
    from modules import images

    host.shared.opts.data.update(samples_save=True, grid_save=True, grid_format="png")
    host.script("txt2img", "Prompt-to-Prompt")
    done = draw(host, {"edits": "cat -> dog\n+ hat", "at_once": 2}, steps=2, outpath_samples="samples", outpath_grids="grids")
    saved = [(path, name, more.get("info")) for _, path, name, more in images.saved]
    assert [(path, name) for path, name, _ in saved] == [("samples", "")] * 3 + [("grids", "prompt_to_prompt")]
    assert [info for _, _, info in saved] == [*done.infotexts[1:], done.infotexts[0]]


def test_a_grid_too_large_is_left_out_and_told(host):
    host.shared.opts.data["img_max_size_mp"] = 0.0001
    done = draw(host, SWAP, steps=2)
    assert "No grid: it would have" in done.comments and done.index_of_first_image == 0 and len(done.images) == 2
