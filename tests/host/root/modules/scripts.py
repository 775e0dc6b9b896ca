"""Scripts and the runner of a tab (HOST.md 2)."""

from __future__ import annotations

import re
import sys
from dataclasses import make_dataclass
from pathlib import Path
from types import SimpleNamespace

import gradio as gr

from modules import errors, script_callbacks, script_loading

AlwaysVisible = object()
MOMENTS = (
    "before_process",
    "process",
    "before_process_batch",
    "process_batch",
    "process_before_every_sampling",
    "before_hr",
    "post_sample",
    "postprocess_batch",
    "postprocess_batch_list",
    "postprocess_image",
    "postprocess_image_after_composite",
    "postprocess",
)


PostSampleArgs = make_dataclass("PostSampleArgs", ["samples"])
PostprocessBatchListArgs = make_dataclass("PostprocessBatchListArgs", ["images"])
PostprocessImageArgs = make_dataclass("PostprocessImageArgs", ["image"])


class Script:
    name = section = filename = infotext_fields = paste_field_names = controls = None
    create_group = True
    alwayson = is_txt2img = is_img2img = False
    args_from = args_to = 0

    def show(self, is_img2img):
        return True

    def ui(self, is_img2img):
        return None

    def elem_id(self, item_id):
        tab = f"{'img2img' if self.is_img2img else 'txt2img'}_" if self.show(True) == self.show(False) else ""
        title = re.sub(r"[^a-z_0-9]", "", re.sub(r"\s", "_", self.title().lower()))
        return f"script_{tab}{title}_{item_id}"


def _nothing(self, *args, **kwargs):
    pass


for _moment in MOMENTS:
    setattr(Script, _moment, _nothing)

scripts_data: list[SimpleNamespace] = []


def load_scripts(folders):
    """Execute all script files, the host's first. A file that fails is noted and left out."""
    scripts_data.clear()
    script_callbacks.clear_callbacks()
    for folder in folders:
        for file in sorted(Path(folder, "scripts").glob("*.py")):
            before, sys.path = sys.path, [str(folder), *sys.path]
            try:
                module = script_loading.load_module(str(file))
            except Exception:
                errors.report(f"loading {file.name}", exc_info=True)
                continue
            finally:
                sys.path = before
            for found in vars(module).values():
                if isinstance(found, type) and issubclass(found, Script):
                    scripts_data.append(SimpleNamespace(script_class=found, path=str(file), basedir=str(folder), module=module))


class ScriptRunner:
    # Whether exceptions in scripts are only noted (as in the host) or end the job (so that no test misses one).
    tolerant = False

    def __init__(self, is_img2img):
        self.inputs, self.infotext_fields, self.paste_field_names = [], [], []
        self.scripts = []
        for data in scripts_data:
            script = data.script_class()
            script.filename, script.is_img2img, script.is_txt2img = data.path, is_img2img, not is_img2img
            visible = script.show(is_img2img)
            script.alwayson = visible is AlwaysVisible
            if visible:
                self.scripts.append(script)
        self.alwayson_scripts = [script for script in self.scripts if script.alwayson]
        self.selectable_scripts = [script for script in self.scripts if not script.alwayson]

    def setup_ui(self, sections=("accordions", None)):
        self.inputs.append(gr.Dropdown(["None", *(s.title() for s in self.selectable_scripts)], label="Script", type="index"))
        for section in sections:
            with gr.Row():
                for script in self.scripts:
                    if script.section == section:
                        self._create_ui(script)

    def _create_ui(self, script):
        try:
            controls = script.ui(script.is_img2img)
        except Exception:
            errors.report(f"ui of {script.title()}", exc_info=True)
            controls = None
        script.args_from = script.args_to = len(self.inputs)
        if controls is None:
            return
        assert all(control.label for control in controls)
        script.controls, script.name = controls, script.title().lower()
        for control in controls:
            control.custom_script_source = Path(script.filename).name
        self.inputs += controls
        script.args_to = len(self.inputs)
        self.infotext_fields += script.infotext_fields or []
        self.paste_field_names += script.paste_field_names or []

    def script(self, title):
        return next((s for s in self.scripts if s.title().lower() == title.lower()), None)

    def run(self, p, *args):
        script = self.selectable_scripts[args[0] - 1] if args and args[0] else None
        return script and script.run(p, *args[script.args_from : script.args_to])

    def set_named_arg(self, args, script_name, arg_elem_id, value):
        script = next((s for s in self.scripts if s.name == script_name), None)
        at = next((i for i, control in enumerate(script.controls if script else ()) if control.elem_id == arg_elem_id), None)
        if at is None:
            raise RuntimeError(f"{script_name} has no {arg_elem_id}")
        at += script.args_from
        return (*args[:at], value, *args[at + 1 :])

    def _dispatch(self, moment, p, *before, **given):
        for script in self.alwayson_scripts:
            if getattr(type(script), moment) is _nothing:
                continue
            try:
                getattr(script, moment)(p, *before, *p.script_args[script.args_from : script.args_to], **given)
            except Exception:
                errors.report(f"{moment} of {script.title()}", exc_info=True)


def _dispatcher(moment):
    return lambda self, p, *before, **given: self._dispatch(moment, p, *before, **given)


for _moment in MOMENTS:
    setattr(ScriptRunner, _moment, _dispatcher(_moment))
