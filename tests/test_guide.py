"""The guides: both say the same, name every setting, and their examples are true."""

import json
import re
from pathlib import Path

import pytest
import torch

from lib_accel import sample
from lib_accel.cli.main import COMMANDS
from lib_accel.settings.schema import KNOBS
from lib_accel.webui.prompt_to_prompt.controls import CONTROLS

PROJECT = Path(__file__).resolve().parent.parent
ENGLISH, CHINESE = ((PROJECT / "docs" / name).read_text(encoding="utf-8") for name in ("guide.md", "guide.zh.md"))
WORDS = json.loads((PROJECT / "localizations" / "zh_CN.json").read_text(encoding="utf-8"))


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def headings(text):
    return re.findall(r"^(#+) (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)


def anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("knob", KNOBS.values(), ids=lambda knob: knob.name)
def test_every_setting_has_its_row_in_both_guides(knob):
    assert f"| {knob.label} |" in ENGLISH or f"*{knob.label}*" in ENGLISH
    name = WORDS[knob.label]
    assert f"| {name} |" in CHINESE or f"“{name}”" in CHINESE


def test_settings_can_be_told_apart_by_their_chinese_names():
    names = [WORDS[knob.label] for knob in KNOBS.values()]
    assert sorted(name for name in names if names.count(name) > 1) == []


@pytest.mark.parametrize("control", CONTROLS.values(), ids=lambda control: control.name)
def test_prompt_to_prompts_settings_are_in_both_guides(control):
    assert control.label in ENGLISH
    assert WORDS[control.label] in CHINESE


def test_defaults_in_the_tables_are_those_of_the_settings():
    for knob in KNOBS.values():
        rows = re.findall(rf"^\| {re.escape(knob.label)} \| ([^|]*) \|", ENGLISH, re.M)
        if rows:
            default = {"True": "on", "False": "off", "balanced": "Balanced"}.get(knob.text(knob.default), knob.text(knob.default))
            assert rows[-1] == default, knob.name


def test_both_guides_have_the_same_parts_and_examples():
    assert [len(marks) for marks, _ in headings(ENGLISH)] == [len(marks) for marks, _ in headings(CHINESE)]
    for language in ("python", "json"):
        assert blocks(ENGLISH, language) == blocks(CHINESE, language)
    assert ENGLISH.count("\n| ") == CHINESE.count("\n| ")
    assert ENGLISH.count("\n- ") == CHINESE.count("\n- ")


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_links_lead_somewhere(text):
    anchors = {anchor(heading) for _, heading in headings(text)}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("http"):
            assert (PROJECT / "docs" / target).exists(), target


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_commands_exist(text):
    named = re.findall(r"python -m lib_accel ([a-z]+)", text)
    assert set(named) <= set(COMMANDS) and {"bench", "edit"} <= set(named)


@pytest.mark.parametrize("number", range(len(blocks(ENGLISH, "json"))))
def test_what_the_api_examples_send_is_known(number):
    sent = json.loads(blocks(ENGLISH, "json")[number])
    for name in sent.get("alwayson_scripts", {}).get("accel", {}).get("args", [{}])[0]:
        assert name in KNOBS
    names = {"prompt-to-prompt": set(CONTROLS), "accel a/b": {"repeats", "warm_up", "gain"}, None: set()}[sent.get("script_name")]
    assert all(set(given) <= names for given in sent.get("script_args", ()))


@pytest.mark.parametrize("number", range(len(blocks(ENGLISH, "python"))))
def test_the_python_examples_run(number, monkeypatch, capsys):
    pipe = sample.load_pipeline(random=True)
    pipe.set_progress_bar_config(disable=True)
    drawn, draw = [], type(pipe).__call__

    def quickly(self, *args, **given):
        drawn.append(given)
        small = {"num_inference_steps": 3, "height": 64, "width": 64}
        return draw(self, *args, **{**given, **small, "output_type": given.get("output_type", "pil")})

    monkeypatch.setattr(type(pipe), "__call__", quickly)
    torch.manual_seed(0)
    names = {"pipe": pipe}
    exec(compile(blocks(ENGLISH, "python")[number], f"example {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "failed" not in printed and "stood down" not in printed
    assert drawn or "no guidance for 2 of 4 steps" in printed
