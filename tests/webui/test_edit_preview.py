"""The preview of the edits' words: what its chips say, that it escapes what was typed, and that it loads nothing."""

import json
import re

import gradio as gr
import pytest
from editing import draw
from harness import PROJECT


@pytest.fixture
def show(host):
    from lib_accel.webui.prompt_to_prompt import chips as preview
    from lib_accel.webui.prompt_to_prompt.controls import CONTROLS

    def shown(edits, prompt="a red cat", kind="auto", seeds=1, **changes):
        # What stands before a word has no width, see `test_translation`.
        values = {**{name: control.default for name, control in CONTROLS.items()}, "edits": edits, "kind": kind, **changes}
        return preview.show(json.dumps({"prompt": prompt, "seeds": seeds}), *values.values()).replace("&#8288;", "")

    return shown


@pytest.mark.parametrize("loaded", [False, True])
def test_chips(host, show, loaded):
    if loaded:
        assert host.shared.sd_model is not None
    html = show("cat -> dog")
    assert "<b>replace</b>" in html and "<s>cat</s> → dog" in html and '<span class="accel-chip">red</span>' in html
    html = show("+ hat")
    assert "<b>refine</b>" in html and '<span class="accel-chip accel-new">hat</span>' in html
    assert "&times;0" in show("red*0") and "<b>reweight</b>" in show("red*0")
    assert '<del class="accel-gone">red</del>' in show("red ->")
    assert host.sd_models.model_data.loads == loaded


def test_another_comma_is_no_other_word(host, show):
    html = show("a red, cat")
    assert "<b>replace</b>" in html and "accel-swapped" not in html and "<del" not in html


def test_nothing_is_encoded(host, show, monkeypatch):
    assert host.shared.sd_model is not None
    monkeypatch.setattr(type(host.shared.sd_model), "get_learned_conditioning", lambda *given: 1 / 0)
    assert "dog" in show("cat -> dog")


def test_long_prompts_tell_their_chunks(host, show):
    assert host.shared.sd_model is not None
    assert "7 tokens, 3 chunks" in show("+ of a tale", prompt="a red cat")


@pytest.mark.parametrize("text", ["<img src=x onerror=alert(1)>", "cat -> <b>x</b>", "<script> -> x", '"><i>*2', "+ <svg/onload=1>"])
def test_what_was_typed_is_escaped(show, text):
    for html in (show(text), show("+ hat", prompt=text), show(f"= {text}", prompt=f"a {text}")):
        assert not any(bad in html.lower() for bad in ("<img", "<script", "<svg", "<b>x", "<i>*"))


@pytest.mark.parametrize("text", ["dog -> x", "a -> b -> c", "cat*", "green*2", "a [b|c]", "x AND y", "red -> <lora:x:1> blue"])
def test_what_cannot_be_is_told_in_its_place(host, show, text):
    html = show(f"cat -> dog\n{text}")
    assert "accel-wrong" in html and "Line 2" in html and "accel-plan" not in html
    # Generate says the same.
    with pytest.raises(Exception, match="Line 2"):
        draw(host, {"edits": f"cat -> dog\n{text}"}, prompt="a red cat")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"blend": "lion"}, "Blend words has &#x27;lion&#x27;"),
        ({"blend": "cat : lion"}, "Blend words has &#x27;lion&#x27;"),
        ({"blend": "cat", "subtract": "lion"}, "Words to leave out of the blend has &#x27;lion&#x27;"),
        ({"cross": "0.8; lion .2"}, "Cross window has &#x27;lion&#x27;"),
        ({"cross": "much"}, "Cross window has &#x27;much&#x27;"),
        ({"self": "2"}, "Self window has &#x27;2&#x27;; it must be a part of the steps from 0 to 1"),
        ({"cross": "0.8; cat 0.9-0.1"}, "Cross window has &#x27;0.9-0.1&#x27;; it must be a part of the steps from 0 to 1"),
        ({"heat": "lion"}, "Heat map words has &#x27;lion&#x27;"),
        ({"cross_layers": "x"}, "Cross-attention layers"),
        ({"x": "Seed", "x_values": "a"}, "X values"),
        ({"y": "Word weight", "y_values": ""}, "Y values is empty"),
        ({"x": "Seed", "y": "Seed"}, "X axis and Y axis"),
        ({"edits": "a red cat"}, "it changes nothing in the prompt"),
    ],
)
def test_every_box_is_looked_at(show, changes, named):
    html = show(**{"edits": "cat -> dog", **changes})
    assert "accel-wrong" in html and named in html and "Line 1: word" not in html


def test_how_much_will_be_drawn(show):
    def drawn(**given):
        return [int(number) for number in re.findall(r"(\d+) <span>", show(**given).split("Generate draws")[1])]

    assert drawn(edits="cat -> dog\n+ hat") == [2, 1, 1]
    assert drawn(edits="cat -> dog", seeds=3, y="Cross window", y_values="0.2, 0.4") == [6, 3, 3]
    many = {"edits": "cat -> dog", "x": "Seed", "x_values": "1-100"}
    assert drawn(**many) == [100, 100, 100] and "accel-wrong" in show(**many)


def test_nothing_typed_shows_how_to_begin(show):
    assert show("") == show(None) == show("# remark")
    assert re.findall(r'data-accel-edit="(.*?)"', show("")) == ["a -&gt; ", "red -&gt; ", "cat -&gt; ", "+ ", "cat*1.5", "= a red cat"]
    assert show("", prompt="") == show("", prompt="a AND b") == ""


def test_much_is_cut(show):
    assert "… 10" in show("\n".join(f"cat -> dog{i}" for i in range(50)))


def test_a_checkpoint_without_chunks_is_told(host, show):
    host.sd_models.switch_to(host.model(kind="sd3"))
    assert "SD1.x, SD2.x and SDXL" in show("cat -> dog")


def test_every_label_and_hint_is_in_the_chinese_localization(host):
    from lib_accel.webui.prompt_to_prompt import controls, ui

    words = json.loads((PROJECT / "localizations" / "zh_CN.json").read_text(encoding="utf-8"))
    shown = {controls.TITLE, ui.INTRODUCTION, ui.BLEND, ui.MORE}
    shown |= {text for control in controls.CONTROLS.values() for text in (control.label, control.hint)}
    assert shown <= set(words)
    with gr.Blocks() as demo:
        made = host.script("txt2img", controls.TITLE).ui(False)
    assert [component.label for component in made] == [control.label for control in controls.CONTROLS.values()]
    ids = [block.elem_id for block in demo.blocks.values() if block.elem_id]
    assert len(set(ids)) == len(ids) and "script_txt2img_prompttoprompt_refresh" in ids


@pytest.mark.parametrize("edits", ["", "cat -> dog"])
def test_a_model_that_cannot_be_edited_is_told_as_the_job_tells_it(host, show, edits):
    host.sd_models.switch_to(host.model(kind="sd3"))
    html = show(edits)
    assert (
        "can change nothing: this model has no transformer blocks of a kind that it knows. It works with SD1.x" in html
        and "accel-chip" not in html
    )
