"""The accordion: a preset with a sentence on what it costs, and the knobs folded below. Made from the table of knobs.

`build` may run several times for one tab (the API does); nothing made here is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion

from ..families import family_of
from ..infotext import PRESET_KEY, from_infotext, shown_preset
from ..job_settings import CUSTOM, METHOD_KNOBS, NOT_IN_PRESETS, REFUSED, preset_values
from ..knobs import KNOBS, METHOD_GROUPS, Knob
from ..presets import PRESETS
from ..settings import SettingError
from ..sites import UnsupportedModelError
from . import host, user_presets

SENTENCES = {
    "quality": "Costs least: fine texture may change; the composition stays.",
    "balanced": "Small things may move or lose some detail.",
    "fast": "The composition may drift and detail softens; most time is saved.",
    CUSTOM: "The knobs below, as they are.",
}
OWN_SENTENCE = "One of your own presets."

# Folded groups of knobs: (title, names). Every knob but the two on top is in exactly one.
FOLDS = (
    ("Whole job", ("first_pass", "auto")),
    ("Agents", tuple(n for n in KNOBS if n.startswith("agents.") and not n.endswith((".start", ".end")))),
    (
        "Merging and downsampling",
        tuple(n for n in KNOBS if n.startswith(("merging.", "downsampling.")) and not n.endswith((".start", ".end"))),
    ),
    ("Stages: the part of the steps in which each method acts", tuple(f"{g}.{end}" for g in METHOD_GROUPS for end in ("start", "end"))),
    ("Hires pass", tuple(n for n in KNOBS if n.startswith("hires."))),
    ("From how many tokens on", tuple(n for n in KNOBS if n.startswith("least."))),
)
IN_A_ROW = 3


@dataclass(frozen=True)
class Built:
    """What a script's `ui` has to return or keep, for one tab."""

    controls: list[Any]
    infotext_fields: list[tuple[Any, Callable[[dict], Any]]]
    paste_field_names: list[Any]


def build(elem_id: Callable[[str], str], tab: str) -> Built:
    """Build the controls of ``tab`` inside the host's blocks."""
    preset = KNOBS["preset"].default
    shown = {**{name: knob.default for name, knob in KNOBS.items()}, **preset_values(preset, "sd1")}
    made: dict[str, Any] = {}

    def make(names: Iterable[str]) -> None:
        names = list(names)
        for i in range(0, len(names), IN_A_ROW):
            with gr.Row():
                for name in names[i : i + IN_A_ROW]:
                    made[name] = _component(KNOBS[name], shown[name], elem_id(name.replace(".", "_")))

    with InputAccordion(False, label=KNOBS["enabled"].label, elem_id=elem_id("enabled")) as enabled:
        made["enabled"] = enabled
        with gr.Row():
            made["preset"] = gr.Dropdown(
                preset_choices(),
                value=shown_preset(preset),
                label=KNOBS["preset"].label,
                info=KNOBS["preset"].hint,
                elem_id=elem_id("preset"),
            )
        sentence = gr.Markdown(SENTENCES[preset], elem_id=elem_id("sentence"))
        for title, names in FOLDS:
            with gr.Accordion(title, open=False, elem_id=elem_id("fold_" + title.split(" ")[0].strip(":").lower())):
                make(names)

    filled = [name for name in KNOBS if name not in NOT_IN_PRESETS]
    made["preset"].input(fill, inputs=[made["preset"]], outputs=[sentence, *(made[name] for name in filled)], show_progress=False)
    for name in METHOD_KNOBS:
        # In the browser: no call of the server for every move of a slider.
        made[name].input(fn=None, _js=f"() => {shown_preset(CUSTOM)!r}", inputs=[], outputs=[made["preset"]])

    controls = [made[name] for name in KNOBS]
    readers = [reader(name) for name in KNOBS]
    return Built(controls, list(zip(controls, readers)), readers)


def preset_choices() -> list[str]:
    """All presets, the user's own last."""
    return [shown_preset(name) for name in (*PRESETS, CUSTOM)] + list(user_presets.read()[0])


def fill(chosen: Any) -> list[Any]:
    """The sentence and the knobs for a preset that was chosen, for the model that is loaded."""
    name = str(chosen).lower() if str(chosen).lower() in (*PRESETS, CUSTOM) else str(chosen)
    own = user_presets.read()[0]
    values: dict[str, Any] = {}
    if name != CUSTOM:
        try:
            values = preset_values(name, loaded_family(), own)
        except SettingError as error:
            return [gr.update(value=_plain(str(error)))] + [gr.update() for knob in KNOBS if knob not in NOT_IN_PRESETS]
        # What PNG info pinned is this machine's to say again.
        values = {**{knob: 0 for knob in KNOBS if knob.startswith("least.")}, **values}
    updates = [
        gr.update(value=_shown(KNOBS[knob], values[knob])) if knob in values else gr.update()
        for knob in KNOBS
        if knob not in NOT_IN_PRESETS
    ]
    return [gr.update(value=SENTENCES.get(name, OWN_SENTENCE)), *updates]


def loaded_family() -> str:
    """The family of the model that is loaded; ``sd1`` while there is none."""
    unet = host.loaded_unet()
    try:
        return "sd1" if unet is None else family_of(unet)
    except UnsupportedModelError:
        return "sd1"


@cache
def reader(name: str) -> Callable[[dict], Any]:
    """What pasted PNG info means for the knob ``name``. One function for both tabs: "Send to" compares them."""

    def read(params: dict) -> Any:
        if name == "enabled":
            return PRESET_KEY in params
        if PRESET_KEY not in params:
            return None
        own = user_presets.read()[0]
        try:
            settings = from_infotext(params, own)
        except SettingError as error:
            # The sentence stands where the preset stands, and switches the job off that is run with it.
            text = f"{REFUSED}{error}"
            return gr.update(value=text, choices=[*preset_choices(), text]) if name == "preset" else None
        if name == "preset":
            return gr.update(value=shown_preset(settings["preset"]), choices=preset_choices())
        return _shown(KNOBS[name], settings[name])

    return read


def _component(knob: Knob, value: Any, elem_id: str) -> Any:
    given: dict[str, Any] = {"label": knob.label, "info": knob.hint, "elem_id": elem_id, "value": _shown(knob, value)}
    if knob.kind == "flag":
        return gr.Checkbox(**given)
    if knob.kind == "choice":
        return gr.Dropdown(list(knob.texts), **given)
    low, high = knob.rule["low"], knob.rule["high"]
    if high is None:
        return gr.Number(minimum=low, precision=0 if knob.kind == "integer" else None, **given)
    return gr.Slider(low, high, step=1 if knob.kind == "integer" else 0.01, **given)


def _shown(knob: Knob, value: Any) -> Any:
    return knob.text(value) if knob.kind == "choice" else value


def _plain(text: str) -> str:
    """Text that somebody else may have written, for Markdown: no markup of any kind is left in it."""
    return "".join(c if c.isalnum() or c in " .,:;-" else f"&#{ord(c)};" for c in text)
