"""Prompts of Prompt-to-Prompt as the host takes them: comments, options of the job, BREAK, nothing at all."""

import re

import numpy as np
import pytest
from editing import SOURCE, draw, parsed, told
from harness import pixels

from lib_accel.core.fields import SettingError


@pytest.fixture
def comments(host, monkeypatch):
    """The host's script that takes comments out of prompts, styles included."""
    host.shared.opts.data["enable_prompt_comments"] = True
    run = host.processing.process_images_inner

    def process_images_inner(p):
        styles, p.styles = getattr(p, "styles", None) or (), []
        prompts = [host.shared.prompt_styles.apply_styles_to_prompt(prompt, styles) for prompt in p.prompt]
        p.prompt = [re.sub("#[^\n]*(\n|$)", "\n", prompt) for prompt in prompts]
        return run(p)

    monkeypatch.setattr(host.processing, "process_images_inner", process_images_inner)
    return host


def test_comments_in_edits_and_styles_are_no_words(comments, jobs):
    comments.shared.prompt_styles.styles = {"oil": ("oil # of a master", "")}
    with pytest.raises(SettingError, match=r"Line 1: .*'fluffy'"):
        draw(comments, {"edits": "cat -> dog # a fluffy one; fluffy*2"})
    with pytest.raises(SettingError, match=r"Line 1 .* changes nothing"):
        draw(comments, {"edits": "= a red cat # as before"})
    with pytest.raises(SettingError, match="'master'"):
        draw(comments, {"edits": "cat -> dog; master*2"}, styles=["oil"])
    assert jobs == []
    done = draw(comments, {"edits": "cat -> dog # a fluffy one"}, prompt=f"{SOURCE} <lora:x:1>", steps=2)
    assert done.infotexts[2].startswith("a red dog")
    assert jobs[0].prompts[1].split() == ["a", "red", "dog"]


def test_the_options_that_a_job_brings_are_in_force_when_its_prompts_are_looked_at(host, jobs):
    host.shared.opts.defaults["use_old_emphasis_implementation"] = False
    with pytest.raises(SettingError, match="Use old emphasis implementation"):
        draw(host, {"edits": "cat -> dog"}, override_settings={"use_old_emphasis_implementation": True})
    assert jobs == []


@pytest.mark.parametrize("source", ["a red cat BREAK", "a red cat BREAK BREAK", "a red cat BREAK <lora:x:1>"])
def test_a_source_that_ends_with_a_break(host, jobs, source):
    done = draw(host, {"edits": "+ of a very very long tail"}, prompt=source, steps=2)
    assert len(done.images) == 3 and "layers for" in done.comments


def test_nothing_is_a_source_that_pastes_back(host):
    from modules.infotext_utils import pasted

    done = draw(host, {"edits": "a cat"}, prompt="", steps=2)
    assert told(done.infotexts[2])["P2P source prompt"] == ""
    params = parsed(done.infotexts[2])
    host.callbacks.dispatch("infotext_pasted", done.infotexts[2], params)
    assert params["Prompt"] == ""
    script = host.script("txt2img", "Prompt-to-Prompt")
    values = pasted(host.runners["txt2img"].infotext_fields, done.infotexts[2])
    again = draw(host, [values.get(control, control.value) for control in script.controls], prompt=params["Prompt"], steps=2)
    assert np.array_equal(pixels(again)[2], pixels(done)[2])


@pytest.mark.parametrize("swap", ["cat -> (dog:1.2)", "(cat) -> dog", "cat -> [dog]"])
def test_emphasis_in_a_swap_hides_no_word_from_the_blend(host, swap):
    """Blend words that were swapped stand for those they were swapped for."""
    edits = {"edits": f"{swap}\nred -> blue", "blend": "cat", "start": 0}
    done = draw(host, edits, prompt="a red (cat)" if "(cat)" in swap else SOURCE, steps=2)
    assert "local blend" in done.comments
    assert told(done.infotexts[2])["P2P blend words"] == "cat"
