"""The documents: both languages say the same, every setting is named, examples run, links lead somewhere, README is short."""

import functools
import json
import math
import re
from pathlib import Path

import pytest
import torch

from lib_accel import sample
from lib_accel.cli.main import COMMANDS
from lib_accel.core.samplers import SAMPLERS
from lib_accel.cost.preview import preview_pass, times_as_fast
from lib_accel.methods.registry import of_known_rows, with_least, with_settings
from lib_accel.settings.job import Settings, preset_values
from lib_accel.settings.passes import FIRST
from lib_accel.settings.presets import PRESETS
from lib_accel.settings.schema import KNOBS
from lib_accel.webui.prompt_to_prompt.controls import CONTROLS

PROJECT = Path(__file__).resolve().parent.parent
PAGES = {
    page.relative_to(PROJECT).as_posix(): page.read_text(encoding="utf-8")
    for page in (*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), PROJECT / "benchmarks/README.md", PROJECT / "sample_model/README.md")
}
README, PYTHON = PAGES["README.md"], PAGES["docs/python.md"]
ENGLISH, CHINESE = PAGES["docs/guide.md"], PAGES["docs/guide.zh.md"]
EDITING, EDITING_CHINESE = PAGES["docs/prompt-to-prompt.md"], PAGES["docs/prompt-to-prompt.zh.md"]
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
def test_prompt_to_prompts_settings_are_on_both_its_pages(control):
    assert control.label in EDITING
    assert WORDS[control.label] in EDITING_CHINESE


def test_defaults_in_the_tables_are_those_of_the_settings():
    for knob in KNOBS.values():
        rows = re.findall(rf"^\| {re.escape(knob.label)} \| ([^|]*) \|", ENGLISH, re.M)
        if rows:
            default = {"True": "on", "False": "off", "balanced": "Balanced"}.get(knob.text(knob.default), knob.text(knob.default))
            assert rows[-1] == default, knob.name


def row_of(page, name):
    """The row of a table of ``page`` whose first cell begins with ``name``."""
    return re.search(rf"^\| {re.escape(name)}[^|]*\|.*$", page, re.M)[0]


@pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_the_guide_tells_from_which_size_methods_act_on_a_gpu(page):
    sides = {8 * math.isqrt(method.declaration.least["gpu"]) for method in with_least().values()}
    for model, coarser in (("**SD1.5**", 1), ("**SDXL**", 2)):
        assert {coarser * side for side in sides} <= set(map(int, re.findall(r"\d+(?= (?:px|像素))", row_of(page, model))))


def test_the_guide_names_what_is_off_beside_regional_prompter_and_what_presets_use_the_deeper_factor():
    titles = {method.declaration.title for method in with_settings() if method in of_known_rows()}
    assert titles and all(title.lower() in row_of(ENGLISH, "Regional Prompter").lower() for title in titles)
    deeper = {name.title() for name, methods in PRESETS.items() if any(getattr(m, "deeper_factor", 1) > 1 for m in methods["sd1"])}
    assert set(re.findall(r"\*(\w+)\*", row_of(ENGLISH, "Downsampling: deeper factor"))) == deeper


def test_the_documents_name_the_samplers_that_can_be_forecast():
    names = {name for name, sampler in SAMPLERS.items() if sampler.forecasting} - {"UniPC"}
    for page in (ENGLISH, README):
        told = re.search(r"[Ss]teps (?:can be|are) forecast with ([^.]*)\.", page.replace("\n", " "))[1]
        assert set(re.split(r", | and ", told)) == names


@pytest.mark.parametrize("name", ["Balanced", "Fast"])
def test_readmes_estimates_are_those_of_the_accordion(name):
    values = {"enabled": True, **preset_values(name, "sd1")}
    least = {f"least.{group}": method.declaration.least["gpu"] for group, method in with_least().items()}
    passes = [
        preview_pass(Settings({**values, **least}), FIRST, "sd1", size, size, 25, 7.0, sampler)
        for sampler in ("DPM++ 2M Karras", "Euler")
        for size in (512, 1024)
    ]
    told = re.findall(r"([\d.]+)x", re.search(rf"^\| {name} \| \d.*$", README, re.M)[0])
    assert told == [f"{times_as_fast([one]):.1f}" for one in passes]


@pytest.mark.parametrize("english, chinese", [(ENGLISH, CHINESE), (EDITING, EDITING_CHINESE)], ids=["guide", "prompt-to-prompt"])
def test_both_languages_have_the_same_parts_and_examples(english, chinese):
    assert [len(marks) for marks, _ in headings(english)] == [len(marks) for marks, _ in headings(chinese)]
    for language in ("python", "json"):
        assert blocks(english, language) == blocks(chinese, language)
    for mark in ("\n| ", "\n- ", "!["):
        assert english.count(mark) == chinese.count(mark)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", PAGES[name], flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)]+)\)|<img src=\"([^\"]+)\"", text):
        target = "".join(target)
        if target.startswith("http"):
            continue
        path, _, part = target.partition("#")
        page = ((PROJECT / name).parent / path).resolve() if path else PROJECT / name
        assert page.exists(), target
        if part:
            assert part in {anchor(heading) for _, heading in headings(page.read_text(encoding="utf-8"))}, target


def test_readme_fits_on_two_screens_and_has_its_commands():
    assert len(README.splitlines()) <= 160
    # On lines of their own: Windows' own shell does not know &&.
    assert '\npip install -c constraints.txt ".[demo]"\npython -m lib_accel demo\n' in README
    assert "\npython tests/run.py\n" in README


@pytest.mark.parametrize("name", PAGES)
def test_commands_exist(name):
    assert set(re.findall(r"python -m lib_accel ([a-z]+)", PAGES[name])) <= set(COMMANDS)


def test_every_command_is_on_the_page_of_commands():
    assert set(re.findall(r"^python -m lib_accel ([a-z]+)", PYTHON, re.M)) == set(COMMANDS)


@pytest.mark.parametrize("number", range(len(blocks(ENGLISH, "json"))))
def test_what_the_api_examples_send_is_known(number):
    sent = json.loads(blocks(ENGLISH, "json")[number])
    for name in sent.get("alwayson_scripts", {}).get("accel", {}).get("args", [{}])[0]:
        assert name in KNOBS
    names = {"prompt-to-prompt": set(CONTROLS), "accel a/b": {"repeats", "warm_up", "gain"}, None: set()}[sent.get("script_name")]
    assert all(set(given) <= names for given in sent.get("script_args", ()))


EXAMPLES = {
    f"{name} {number}": code for name in ("README.md", "docs/python.md") for number, code in enumerate(blocks(PAGES[name], "python"))
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_python_examples_run(name, monkeypatch, capsys):
    pipe = sample.load_pipeline(random=True)
    pipe.set_progress_bar_config(disable=True)
    drawn, draw = [], type(pipe).__call__

    @functools.wraps(draw)  # edits look at what a pipeline's call takes
    def quickly(self, *args, **given):
        drawn.append(given)
        small = {"num_inference_steps": 3, "height": 64, "width": 64}
        return draw(self, *args, **{**given, **small, "output_type": given.get("output_type", "pil")})

    monkeypatch.setattr(type(pipe), "__call__", quickly)
    torch.manual_seed(0)
    names = {"pipe": pipe}
    exec(compile(EXAMPLES[name], name, "exec"), names)
    printed = capsys.readouterr().out
    assert not re.search("failed|off on|everything (is|was)|off after an error", printed)
    assert drawn or "no guidance for 2 of 4 steps" in printed
