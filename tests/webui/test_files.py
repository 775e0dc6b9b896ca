"""What the host finds in the extension's folder besides scripts."""

import configparser
import json
import os
import re
import subprocess
import sys
import time
import types
from pathlib import Path

import gradio as gr
from harness import PROJECT, ROOT

from lib_accel.settings.schema import KNOBS


def shown_texts(host):
    """Labels, hints and words of all our components and folds, as they stand on the page."""
    from lib_accel.webui.accordion import filling

    texts = {*filling.SENTENCES.values(), filling.OWN_SENTENCE}
    with gr.Blocks() as demo:
        host.script().ui(False)
    for block in demo.blocks.values():
        texts |= {getattr(block, "label", None), getattr(block, "info", None)}
        if isinstance(block, gr.Button):
            texts.add(block.value)
    return texts - {None, "", "Preview"}


def test_every_label_and_hint_is_in_the_chinese_localization(host):
    words = json.loads((PROJECT / "localizations" / "zh_CN.json").read_text(encoding="utf-8"))
    components = {"Textbox", "Markdown", "HTML"}
    missing = {text for text in shown_texts(host) if text not in words} - components
    assert missing == set()
    assert {knob.hint for knob in KNOBS.values()} <= set(words)
    assert all(re.search(r"[\u4e00-\u9fff]", value) for value in words.values())


def test_metadata_is_read(host):
    parser = configparser.ConfigParser()
    parser.read(PROJECT / "metadata.ini")
    assert set(parser.sections()) == {"Extension"}


def test_install_is_quick_silent_and_installs_nothing():
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(PROJECT / "install.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert time.monotonic() - began < 5


def test_ids_that_the_javascript_looks_for_exist(host):
    script = (PROJECT / "javascript" / "accel_accordion.js").read_text()
    ids = {block.elem_id for block in host.demo.blocks.values()}
    for tab in ("txt2img", "img2img"):
        for item in re.findall(r"script_\$\{tab\}_accel_(\w+)", script):
            assert {f"script_{tab}_accel_{item}", f"script_{tab}_accel_{item}-checkbox"} & ids, item


def test_the_entry_script_is_thin_and_registers_one_script(host):
    entry = Path(PROJECT / "scripts" / "accel.py").read_text()
    assert len(entry.splitlines()) < 15
    assert [d.script_class.__name__ for d in host.scripts.scripts_data if d.path.endswith("accel.py")] == ["AccelScript"]


def test_only_webui_knows_the_host():
    for file in (PROJECT / "lib_accel").rglob("*.py"):
        if "webui" not in file.relative_to(PROJECT).parts:
            assert not re.search(r"^\s*(from|import) (modules|gradio)\b", file.read_text(encoding="utf-8"), re.M), file


def test_the_preview_is_computed_in_python_and_carries_no_markup_of_others(host):
    from lib_accel.webui.accordion import strip as preview

    values = [control.value for control in host.script().controls]
    badge, strip, _ = preview.show(json.dumps({"width": 1024, "height": 768, "steps": 20, "hires": 2}), *values)
    assert re.sub(r"<.*?>|\d+", "", badge) == "off · Balanced would be about .x as fast"
    assert "off" not in preview.show("{}", True, *values[1:])[0]
    told = re.sub(r"<.*?>", "", strip)
    assert "first pass 1024x768, 20 steps: sampling about " in told and "hires pass 2048x1536" in told
    assert "shallow stages only 10downsampled 12" in told
    assert strip.count("<i ") == 40 and strip.count("accel-shallow") == 20
    evil = list(values)
    evil[1] = "<img src=x onerror=alert(1)>"
    badge, strip, sentence = preview.show("not json", *evil)
    assert (badge, strip) == ('<span class="accel-badge"><span>settings refused</span></span>', "") and "<" not in sentence
    small = preview.show(json.dumps({"width": 64, "height": 64, "steps": 20, "hires": 0}), *values)[1]
    assert "downsampled: not worth it at this size" in re.sub(r"<.*?>", "", small)


def test_the_preview_forecasts_no_step_of_a_sampler_whose_levels_nobody_tells(host, monkeypatch):
    """UniPC of this host and of most others: Balanced serves deep stages instead, as the job does. Forge Neo runs it by noise levels."""
    from lib_accel.webui.accordion import strip as preview

    values = [control.value for control in host.script().controls]
    shown = {
        name: preview.show(json.dumps({"width": 512, "height": 512, "steps": 20, "sampler": name}), *values)[1]
        for name in ("UniPC", "DPM++ 2M")
    }
    assert [("accel-forecast" in strip, "accel-shallow" in strip) for strip in shown.values()] == [(False, True), (True, False)]
    samplers = types.SimpleNamespace(k_diffusion_samplers_map={"Euler": None, "UniPC": None})
    monkeypatch.setitem(sys.modules, "modules.sd_samplers_kdiffusion", samplers)
    with_levels = preview.show(json.dumps({"width": 512, "height": 512, "steps": 20, "sampler": "UniPC"}), *values)[1]
    assert "accel-forecast" in with_levels
