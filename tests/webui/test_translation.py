"""What the host translates: texts of the page that its dictionary knows as a whole. Input fields' contents, such as a drop-down's choice,
it does not."""

import json
import re
from html.parser import HTMLParser

import gradio as gr
import pytest
from harness import PROJECT

from lib_accel.settings.job import CUSTOM
from lib_accel.settings.presets import PRESETS
from lib_accel.settings.schema import KNOBS

WORDS = json.loads((PROJECT / "localizations" / "zh_CN.json").read_text(encoding="utf-8"))
# Proper names; and what is the host's own to translate.
NOT_OURS = {"fp32", "None", "Seed"}


def texts_of(html):
    """Each text node of ``html``, without spaces around it."""
    found = []
    parser = HTMLParser()
    parser.handle_data = lambda data: found.append(data.strip())
    parser.feed(html)
    return found


def untranslated(texts):
    return {text for text in texts if re.search(r"[a-z]{2}", text) and text not in WORDS} - NOT_OURS


def blocks_of(script):
    with gr.Blocks() as demo:
        script.ui(False)
    return demo.blocks.values()


SITUATIONS = [
    {"enabled": True, "preset": "Fast"},
    {"preset": "Quality", "tgate.on": True},
    {"enabled": True, "agents.on": True, "merging.on": True, "downsampling.on": True, "guidance.on": True},
    {"guidance.on": True, "guidance.when": "after", "guidance.reuse": False},
    {"merging.ratio": 7},
    {"first_pass": False},
]


@pytest.mark.parametrize(
    "sizes", [{"width": 64, "height": 64, "steps": 20}, {"width": 1024, "height": 768, "steps": 20, "hires": 2, "sampler": "Heun"}]
)
@pytest.mark.parametrize("changes", SITUATIONS)
def test_header_and_strip_are_made_of_texts_that_are_translated(host, changes, sizes):
    from lib_accel.webui.accordion import strip as preview

    values = dict(zip(KNOBS, (control.value for control in host.script().controls)))
    values["preset"] = "Custom"
    badge, strip, sentence = preview.show(json.dumps(sizes), *{**values, **changes}.values())
    # What is wrong is told in English, with values in it.
    html = badge + strip + ("" if "settings refused" in badge else sentence)
    assert texts_of(html) and untranslated(texts_of(html)) == set()


def test_every_kind_of_step_is_translated(host):
    from lib_accel.webui.accordion import strip as preview

    assert untranslated(kind.label for kind in preview.KINDS.values()) == set()


def test_choices_are_texts_that_are_translated_and_their_values_are_not(host):
    radios = [block for block in blocks_of(host.script()) if isinstance(block, gr.Radio)]
    assert {radio.label for radio in radios} == {knob.label for knob in KNOBS.values() if knob.kind in ("choice", "name")}
    radios += [block for block in blocks_of(host.script(title="Prompt-to-Prompt")) if isinstance(block, gr.Radio)]
    for radio in radios:
        assert untranslated(label for label, _ in radio.choices) == set()
        assert all(label == value for label, value in radio.choices)
    assert untranslated(name.title() for name in (*PRESETS, CUSTOM)) == set()


def test_a_drop_downs_list_is_translated(host):
    # Radio buttons would fill the row; what was chosen stands in an input field, which the host leaves alone.
    for block in blocks_of(host.script(title="Prompt-to-Prompt")):
        if isinstance(block, gr.Dropdown):
            assert untranslated(block.choices) == set()


def test_words_of_prompts_are_not_taken_for_labels(host):
    from lib_accel.webui.prompt_to_prompt import chips as preview

    html = preview.show("off map value", "map -> local\nFast Quality off", "auto")
    chips = re.sub(r"<b>.*?</b>", "", html.split('<div class="accel-edit accel-plan">')[0])
    assert "local" in chips and not set(texts_of(chips)) & set(WORDS)
