"""The script Prompt-to-Prompt in the host double: the jobs that it starts, and what comes of them."""

import numpy as np
from acting import did
from editing import SOURCE, SWAP, close, draw, parsed, told
from harness import pixels, same

from lib_accel.settings.infotext import unquoted


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
    assert "PromptToPrompt: 0 of 7 layers [nothing edited: no step is in a window of an edit]" in done.comments
    # Of a batch with an edit, and one without, the line tells what was edited.
    done = draw(host, {**SWAP, "self": "0", "x": "Cross window", "x_values": "0, 1", "at_once": 2})
    assert did(done, "cross-attention", 7, (4, 8)) and "nothing edited" not in done.comments


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
    assert unquoted(line) in told(done.infotexts[0])["P2P result"]
    assert "5 steps" in told(done.infotexts[2])["Accel report"]
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
    params = parsed(text)
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
    assert told(done.infotexts[2])["P2P source prompt"] == f"{SOURCE} <lora:x:1>, oil"


def test_a_blend_that_lets_nothing_change_is_the_source(host):
    done = draw(host, {**SWAP, "blend": "cat", "threshold": 1, "start": 0})
    assert np.array_equal(pixels(done)[1], pixels(done)[2])
    done = draw(host, {**SWAP, "blend": "cat", "threshold": 0, "start": 0})
    free = draw(host, SWAP)
    assert close(done.images[2], free.images[2])


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
    assert done.images[0].info["parameters"] == done.infotexts[0]


def test_a_grid_too_large_is_left_out_and_told(host):
    host.shared.opts.data["img_max_size_mp"] = 0.0001
    done = draw(host, SWAP, steps=2)
    assert "No grid: it would have" in done.comments and done.index_of_first_image == 0 and len(done.images) == 2
