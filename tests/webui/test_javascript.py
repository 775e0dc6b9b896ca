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


def test_changes_ask_once_for_what_depends_on_them(told):
    assert told["size"] == ACCORDION[:1]
    assert told["knob"] == ACCORDION[1:]
    assert told["prompt"] == [ACCORDION[0], EDITS]
    assert told["edit"] == [EDITS]
    assert told["nothing"] == []


def test_what_python_is_told(told):
    (sizes, *values), prompt = told["filled"]
    assert json.loads(sizes) == {
        "width": 640,
        "height": 0,
        "steps": None,
        "hires": 1.5,
        "hires_steps": None,
        "guidance": None,
        "sampler": "Euler",
        "loras": ["LCM-x", "other"],
    }
    assert values == [1, 2]
    assert prompt == ["a cat <lora:LCM-x:0.7> <lora:other:1>", "x"]


def test_a_page_without_the_hosts_fields(told, host):
    from lib_accel.webui.accordion import strip as preview

    (sizes, *_), prompt = told["empty"]
    assert json.loads(sizes)["hires"] == 0 and prompt == ["", "x"]
    assert "first pass" in preview.show(sizes, *[control.value for control in host.script().controls])[1]
