"""The script "Accel A/B": the same job plain and with the accordion's settings, by turns, with times, ratio and difference."""

from __future__ import annotations

import copy
from typing import Any

import gradio as gr
import modules.scripts as scripts
from modules import processing, shared

from ...core.fields import SettingError, checked
from . import result, runs

TITLE = "Accel A/B"
REPEATS, WARM_UP, GAIN = "Repeats", "Warm up first", "Amplify the difference"
HINTS = {
    REPEATS: "counted runs of each; more: steadier times",
    WARM_UP: "on: the first run of each is not counted",
    GAIN: "times that the difference picture is brightened",
}
INTRODUCTION = "Runs this job plain and with the Accel settings above (on or not), by turns and with the same seed, and compares."
RULES: dict[str, tuple[Any, dict[str, Any]]] = {
    REPEATS: (2, {"kind": "integer", "low": 1, "high": 20}),
    WARM_UP: (True, {"kind": "flag"}),
    GAIN: (4, {"kind": "integer", "low": 1, "high": 32}),
}


class AccelAB(scripts.Script):
    """One instance per tab. Nothing of a job is kept on it."""

    def title(self) -> str:
        return TITLE

    def show(self, is_img2img: bool) -> bool:
        return True

    def ui(self, is_img2img: bool) -> list[Any]:
        made: dict[str, Any] = {}
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            for label, (default, rule) in RULES.items():
                given = {"label": label, "info": HINTS[label], "value": default, "elem_id": self.elem_id(label.split()[0].lower())}
                if rule["kind"] == "flag":
                    made[label] = gr.Checkbox(**given)
                else:
                    made[label] = gr.Slider(rule["low"], rule["high"], step=1, **given)
        self.infotext_fields = [(component, result.key_of(label)) for label, component in made.items()]
        self.paste_field_names = [result.key_of(label) for label in made]
        return list(made.values())

    def run(self, p: Any, *args: Any) -> Any:
        """Every run of both sides, and what they came to. Raises only when no run made a picture."""
        settings, complaints = read(args)
        # Whoever gave us p may run it again (img2img's batch): it stays as it is.
        own = copy.copy(p)
        processing.fix_seed(own)
        sides = runs.run_both(own, settings[REPEATS], settings[WARM_UP])
        return result.result(own, sides, settings, complaints, settings[GAIN], shared.opts)


def read(args: tuple) -> tuple[dict[str, Any], list[str]]:
    """The script's settings by label, and a sentence for each value that could not be taken; its default is used then."""
    settings = {label: default for label, (default, _) in RULES.items()}
    complaints = []
    for (label, (default, rule)), value in zip(RULES.items(), args):
        try:
            settings[label] = checked(f"{TITLE}: {label}", value, rule)
        except SettingError as error:
            complaints.append(f"{error} {default} was used.")
    return settings, complaints
