"""The accordion: a preset with a sentence on what it costs, and the knobs folded below. Made from the table of knobs.

`build` may run several times for one tab (the API does); nothing made here is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.context import Context
from modules.ui_components import InputAccordion

from ...settings.infotext import shown_preset
from ...settings.job import CUSTOM, METHOD_KNOBS, NOT_IN_PRESETS, preset_values
from ...settings.schema import GROUPS, KNOBS, WINDOWED_GROUPS, Knob
from . import filling
from .strip import show

STAGES = tuple(f"{group}.{end}" for group in WINDOWED_GROUPS for end in ("start", "end"))


def _of_group(*groups: str) -> tuple[str, ...]:
    return tuple(name for name, knob in KNOBS.items() if knob.group in groups and name not in STAGES)


# Folded groups of knobs: (title, names). Every knob but the two on top is in exactly one.
FOLDS = (
    ("Whole job", tuple(name for name in _of_group("") if name not in NOT_IN_PRESETS)),
    *((group.title, _of_group(group.name)) for group in GROUPS if group.method),
    ("Stages: the part of the steps in which each method acts", STAGES),
    ("Hires pass", _of_group("hires")),
    ("From how many tokens on", _of_group("least")),
)
IN_A_ROW = 2


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

    def make(names: Sequence[str]) -> None:
        switches = [name for name in names if name.endswith(".on")]
        others = [name for name in names if name not in switches]
        pairs = [others[i : i + IN_A_ROW] for i in range(0, len(others), IN_A_ROW)]
        for row in [switches, *pairs] if switches else pairs:
            with gr.Row():
                for name in row:
                    made[name] = _component(KNOBS[name], shown[name], elem_id(name.replace(".", "_")))

    def fold(title: str, names: tuple[str, ...]) -> None:
        name = title.split(" ")[0].strip(":").lower()
        rare = [name for name in names if KNOBS[name].rare]
        with gr.Accordion(title, open=False, elem_id=elem_id(f"fold_{name}")):
            make([name for name in names if name not in rare])
            if rare:
                with gr.Accordion("Rarely changed", open=False, elem_id=elem_id(f"fold_{name}_rare")):
                    make(rare)

    with InputAccordion(False, label=KNOBS["enabled"].label, elem_id=elem_id("enabled")) as enabled:
        made["enabled"] = enabled
        with enabled.extra():
            badge = gr.HTML("", elem_id=elem_id("badge"))
        with gr.Row():
            # Its choices, as those of all radio buttons here, are texts on the page, which the host translates; values stay as they are.
            made["preset"] = gr.Radio(
                filling.preset_choices(),
                value=shown_preset(preset),
                label=KNOBS["preset"].label,
                info=KNOBS["preset"].hint,
                elem_id=elem_id("preset"),
            )
        sentence = gr.Markdown(filling.SENTENCES[preset], elem_id=elem_id("sentence"))
        strip = gr.HTML("", elem_id=elem_id("strip"))
        for title, names in FOLDS:
            fold(title, names)
        with gr.Accordion("Own presets", open=False, elem_id=elem_id("fold_own")):
            with gr.Row():
                own_name = gr.Textbox("", label="Name of your preset", max_lines=1, elem_id=elem_id("own_name"))
                own_name.do_not_save_to_config = True
                save = gr.Button("Save these settings", elem_id=elem_id("own_save"))
                delete = gr.Button("Delete preset", elem_id=elem_id("own_delete"))
            said = gr.Markdown("", elem_id=elem_id("own_said"))
        # The browser presses it when something changed, and tells the sizes; a component that is not visible would not be there.
        refresh = gr.Button("Preview", elem_id=elem_id("refresh"), elem_classes=["accel-hidden"])
        sizes = gr.Textbox("", visible=False)

    filled = [name for name in KNOBS if name not in NOT_IN_PRESETS]
    knobs_of_preset = {"inputs": [made["preset"]], "outputs": [sentence, *(made[name] for name in filled)], "show_progress": False}
    made["preset"].input(filling.fill, **knobs_of_preset)
    for name in METHOD_KNOBS:
        # In the browser: no call of the server for every move of a slider.
        made[name].input(fn=None, _js=f"() => {shown_preset(CUSTOM)!r}", inputs=[], outputs=[made["preset"]])

    controls = [made[name] for name in KNOBS]
    look = {"fn": show, "_js": f"(...args) => accel.sizes({tab!r}, args)", "inputs": [sizes, *controls], "outputs": [badge, strip]}
    look["show_progress"] = False
    refresh.click(**look)
    enabled.change(**look)
    Context.root_block.load(filling.fill_page, **knobs_of_preset, queue=False).then(**look)
    save.click(filling.save, inputs=[own_name, *controls], outputs=[made["preset"], said])
    delete.click(filling.delete, inputs=[own_name, made["preset"]], outputs=[made["preset"], said])
    readers = [filling.reader(name) for name in KNOBS]
    return Built(controls, list(zip(controls, readers)), readers)


def _component(knob: Knob, value: Any, elem_id: str) -> Any:
    given: dict[str, Any] = {"label": knob.label, "info": knob.hint, "elem_id": elem_id, "value": filling.shown(knob, value)}
    if knob.kind == "flag":
        return gr.Checkbox(**given)
    if knob.kind == "choice":
        return gr.Radio(list(knob.texts), **given)
    low, high = knob.rule["low"], knob.rule["high"]
    if not filling.is_slider(knob):
        return gr.Number(minimum=low, precision=0 if knob.kind == "integer" else None, **given)
    return gr.Slider(low, high, step=1 if knob.kind == "integer" else knob.rule.get("step", 0.01), **given)
