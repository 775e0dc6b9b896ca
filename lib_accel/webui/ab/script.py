"""The script "Accel A/B": the same job plain and with the accordion's settings, by turns, with times, ratio and difference."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import gradio as gr
import modules.scripts as scripts
from modules import processing, shared

from ...core.fields import SettingError, checked
from ..host import distributed, requests
from . import result, runs

TITLE = "Accel A/B"
REPEATS, WARM_UP, GAIN = "Repeats", "Warm up first", "Amplify the difference"
HINTS = {
    REPEATS: "timed runs of each; more: steadier times",
    WARM_UP: "on: the first run of each is not counted",
    GAIN: "how many times brighter the difference is shown",
}
INTRODUCTION = (
    "Runs this job in turns without Accel and with the Accel settings above (ticked or not), with the same seed, and compares them."
)
# What a request to the API calls them.
NAMES = {"repeats": REPEATS, "warm_up": WARM_UP, "gain": GAIN}
EXAMPLE = [{"repeats": 3, "warm_up": True, "gain": 4}]
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
                    made[label] = gr.Checkbox(**given, elem_classes=["accel-flag"])
                else:
                    made[label] = gr.Slider(rule["low"], rule["high"], step=1, **given)
        jobs = gr.HTML(count_of(*(default for default, _ in list(RULES.values())[:2])), elem_id=self.elem_id("jobs"))
        for label in (REPEATS, WARM_UP):
            made[label].change(count_of, inputs=[made[REPEATS], made[WARM_UP]], outputs=[jobs], show_progress=False, queue=False)
        fields = [(component, result.key_of(label)) for label, component in made.items()]
        self.infotext_fields = [*fields, *requests.infotext_fields(IN_REQUESTS)]
        self.paste_field_names = [result.key_of(label) for label in made]
        return list(made.values())

    def run(self, p: Any, *args: Any) -> Any:
        """Every run of both sides, and what they came to. Raises only when no run made a picture, and where a request is not by name."""
        try:
            settings, complaints = read(args, requests.is_one(p))
        except SettingError as error:
            raise requests.refusal(p, error) from error
        # Whoever gave us p may run it again (img2img's batch): it stays as it is.
        own = copy.copy(p)
        own.script_args = requests.in_their_places(p, self)
        if distributed.keep_here(own):
            complaints.append(distributed.HERE)
        processing.fix_seed(own)
        sides = runs.run_both(own, settings[REPEATS], settings[WARM_UP])
        try:
            return result.result(own, sides, settings, complaints, settings[GAIN], shared.opts)
        except RuntimeError as error:
            raise requests.refusal(p, error, status=500) from error


def count_of(repeats: Any, warm_up: Any) -> str:
    """HTML: how many jobs will run. Phrases stand alone, as the host translates them."""
    try:
        count = len(runs.order_of(max(1, int(repeats)), bool(warm_up)))
    except (ValueError, TypeError, OverflowError):
        return ""
    return f"<span>Generate runs this job</span> {count} <span>times</span>"


def read(args: tuple, from_request: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The script's settings by label, and a sentence for each value that could not be taken; its default is used then.

    args: the values in order, or one dict by name. from_request: only by name. SettingError for names that there are not.
    """
    named = requests.by_name(args)
    if named is None and from_request:
        raise SettingError(f"{TITLE}: script_args must be a list of one object with settings by name, such as {json.dumps(EXAMPLE)}.")
    unknown = [str(name) for name in named or () if name not in NAMES]
    if unknown:
        raise SettingError(f"{TITLE}: {unknown[0]!r} is no setting; there are {', '.join(NAMES)}.")
    settings = {label: default for label, (default, _) in RULES.items()}
    complaints = []
    given = dict(zip(RULES, args)) if named is None else {NAMES[name]: value for name, value in named.items() if value is not None}
    for label, value in given.items():
        default, rule = RULES[label]
        try:
            settings[label] = checked(f"{TITLE}: {label}", value, rule)
        except SettingError as error:
            complaints.append(f"{error} {default} was used.")
    return settings, complaints


def _args_told(params: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The arguments of the script in pasted PNG info of a sheet; what cannot be read has its default."""
    if params.get("Script") != TITLE:
        return None
    told: dict[str, Any] = {}
    for name, label in NAMES.items():
        kind, text = RULES[label][1]["kind"], str(params.get(result.key_of(label), ""))
        if kind == "flag" and text in ("True", "False"):
            told[name] = text == "True"
        elif kind == "integer" and text.isdecimal():
            told[name] = int(text)
    return [told]


# What pasted PNG info sets in a request to the API.
IN_REQUESTS = {
    "script_name": lambda params: TITLE.lower() if params.get("Script") == TITLE else None,
    "script_args": _args_told,
}
