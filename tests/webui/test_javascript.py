"""The files for the browser, in Node with a page of stubs: what they press when, and what they tell Python. Skipped without Node."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import PROJECT

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs node")
# In the host's order.
FILES = sorted((PROJECT / "javascript").glob("*.js"), key=lambda file: file.name)
ACCORDION = ["#script_txt2img_accel_refresh", "#script_img2img_accel_refresh"]
EDITS = "#script_txt2img_prompttoprompt_refresh"


@pytest.fixture(scope="module")
def told():
    done = subprocess.run([NODE, Path(__file__).parent / "page.js", *FILES], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_one_global_object(told):
    assert told["globals"] == ["accel"]


def test_a_page_that_opens_asks_for_the_accordions_preview_in_both_tabs(told):
    assert told["opening"] == ACCORDION


def test_values_ask_once_however_they_were_set(told):
    assert told["size"] == told["resize"] == ACCORDION[:1]
    assert told["strength"] == told["knob"] == ACCORDION[1:]
    # While another script is chosen there is nothing to show; the strip tells that edits run steps.
    assert told["unseen"] == [] and told["chosen"] == [ACCORDION[0], EDITS]
    assert told["prompt"] == [EDITS]
    assert told["edit"] == [EDITS]
    assert told["nothing"] == told["unsettled"] == []


def test_a_click_on_a_word_begins_an_edit(told):
    assert told["begun"] == ["+ hat\ncat -> "]


def test_presets_show_their_gain(told):
    assert told["gains"] == ["", "~2.0x"]


def test_knobs_without_effect_are_marked_and_those_that_were_changed_can_be_reset(told):
    assert told["knobs"] == {"classes": ["accel-idle"], "buttons": 1, "reset": [0.25]}


def test_another_checkpoint_is_asked_about_and_a_first_one_until_it_is_loaded(told):
    assert told["checkpoint"] == [ACCORDION, []] and told["loaded"] == []
    first, later, at_once, after = told["waiting"]
    assert (first, later, at_once, after) == (ACCORDION[:1], ACCORDION[:1], [], [])


def test_knobs_are_filled_for_a_model_of_another_family(told):
    refill = ["#script_txt2img_accel_refill"]
    assert told["families"] == [[], refill, [], refill]


def test_the_account_is_not_read_twice_below_a_picture(told):
    assert "Accel report" in told["untold"] and told["once"] == "Steps: 4, Version: 1"


def test_another_pictures_account_does_not_hide_that_of_the_picture_that_is_shown(told):
    assert "Accel report: Accel Fast" in told["another"]


def test_a_control_is_touched_until_another_is(told):
    assert told["touched"] == [[True, False], [False, True], [False, False]]


def test_an_own_preset_is_shown_at_once_and_listed_in_the_other_tab(told):
    assert told["own"] == ["#script_txt2img_accel_refresh", "#script_img2img_accel_listing"]


def test_the_name_of_an_own_preset_is_filled_in(told):
    assert told["other"] == ["typed", "mine", "typed", "typed"]


def test_what_python_is_told(told):
    (sizes, *values), prompt = told["filled"]
    assert json.loads(sizes) == {
        "tab": "txt2img",
        "width": 640,
        "height": 0,
        "steps": None,
        "hires": 1.5,
        "hires_size": "960x64",
        "hires_width": None,
        "hires_height": None,
        "hires_steps": None,
        "hires_guidance": None,
        "hires_sampler": "",
        "denoising": None,
        "size": None,
        "guidance": None,
        "sampler": "Euler",
        "loras": ["<lora:LCM-x:0.7>", "<lora:other:1>"],
        "edits": False,
        "spectrum": True,
        "ran": False,
    }
    assert values == [1, 2]
    assert [json.loads(prompt[0]), *prompt[1:]] == [{"prompt": "a cat <lora:LCM-x:0.7> <lora:other:1>", "seeds": 6, "styles": []}, "x"]


def test_a_lora_in_a_comment_is_not_told(told):
    assert told["comments"] == [["<lora:other:1>"], ["<lora:LCM-x:1>", "<lora:other:1>"]]


def test_whether_edits_are_chosen_is_told(told):
    assert told["edits"] == [False, True]


def test_img2img_tells_its_strength_and_the_size_of_resize_by(told):
    assert (told["picture"]["denoising"], told["picture"]["size"]) == (0.5, "768x640")


def test_a_label_is_translated_once_even_to_itself(told):
    assert told["translated"] == {"watchers": 1, "written": 1}


def test_a_page_without_the_hosts_fields(told, host):
    from lib_accel.webui.accordion import strip as preview

    (sizes, *_), prompt = told["empty"]
    assert json.loads(sizes)["hires"] == 0 and json.loads(sizes)["hires_size"] is None
    assert [json.loads(prompt[0]), *prompt[1:]] == [{"prompt": "", "seeds": 1, "styles": []}, "x"]
    assert "first pass" in preview.show(sizes, *[control.value for control in host.script().controls])[1]
