"""What we write into PNG info: values that no host has to quote and no reader cuts, and that come back as they were."""

import re

import pytest
from comparing import compare
from editing import SWAP, draw, parsed
from hypothesis import given
from hypothesis import strategies as st

from lib_accel.settings.infotext import read_back, unquoted, written
from lib_accel.webui.prompt_to_prompt import controls

FORBIDDEN = re.compile(r'[,:"\n\r]')


def read_by_others(infotext):
    """As sd-parsers 0.6 and its like read the last line: cut at every comma, and only what has one colon is kept."""
    items = [item.split(":") for item in infotext.splitlines()[-1].split(",")]
    return {item[0].strip(): item[1].strip() for item in items if len(item) == 2}, [item for item in items if len(item) != 2]


@given(st.text())
def test_texts_come_back(text):
    assert not FORBIDDEN.search(written(text)) and read_back(written(text)) == text


@pytest.mark.parametrize("text", ["512x512", "100%", "50%2C", "", " ", " a cat\u3000", '"a, b": c\nd', "猫 -> 狗", "100% wool, 16:9"])
def test_texts_come_back_through_the_hosts_parser(host, text):
    assert read_back(parsed(f"a cat\nSteps: 5, Seed: 1, Size: 8x8, P2P edits: {written(text)}")["P2P edits"]) == text


@given(st.text())
def test_sentences_are_never_quoted(text):
    assert not FORBIDDEN.search(unquoted(text))


def jobs(host):
    accel = {"enabled": True, "preset": "Custom", "auto": False, "merging.ratio": 0.5, "guidance.on": True}
    yield host.job(accel=accel)
    yield host.job(accel={"enabled": True, "preset": "Balanced"})
    yield host.job(accel={"enabled": True, "preset": 'no "such", preset: at all'})
    yield draw(host, {"edits": 'cat -> a "dog", brown: 512x512; red*2\n+ hat', "cross": "0.8; hat 0.4", "blend": "red"}, accel=accel)
    yield draw(host, SWAP | {"heat": "dog", "x": "Seed", "x_values": "1, 2"})
    yield compare(host, accel=accel)


def test_every_reader_has_every_value(host):
    for done in jobs(host):
        for text in done.infotexts:
            found, lost = read_by_others(text)
            assert lost == [] and '"' not in text.splitlines()[-1]
            assert {key for key in parsed(text) if key.startswith(("Accel", "P2P"))} <= set(found)


def test_what_was_written_before_still_pastes():
    old = {controls.OLD_SOURCE_KEY: "a red cat, 50%2C", "P2P edits": "cat -> dog\n+ 50%2C, hat", "P2P cross window": "0.8; dog 0.4"}
    assert controls.from_infotext("edits", old) == "cat -> dog\n+ 50%2C, hat"
    assert controls.from_infotext("cross", old) == "0.8; dog 0.4" and controls.from_infotext("threshold", old) == 0.3
    params = {**old, "Prompt": "a red dog", "Styles array": ["oil"]}
    controls.restore_source(params)
    assert params["Prompt"] == "a red cat, 50%2C" and params["Styles array"] == ["oil"]
    left_out = {**old, "Negative prompt": ""}
    controls.restore_source(left_out)
    assert "Prompt" not in left_out
