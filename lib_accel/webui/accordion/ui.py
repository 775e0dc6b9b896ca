"""The accordion: a preset with what it gives, the strip of steps, and everything else in one fold. Made from the table of knobs.

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
from ...settings.presets import PRESETS
from ...settings.schema import GROUPS, KNOBS, Group, Knob
from . import filling
from .strip import show


def _of_group(group: str) -> tuple[str, ...]:
    return tuple(name for name, knob in KNOBS.items() if knob.group == group)


# What saves most comes first.
METHODS: tuple[Group, ...] = tuple(sorted((group for group in GROUPS if group.method), key=lambda group: -group.method.declaration.saves))
# The folds behind those of the methods: (id, title, names). Every knob but the two on top is in exactly one fold.
LAST = (
    ("hires", "First pass and hires pass", ("first_pass", *_of_group("hires"))),
    ("thresholds", "Where it pays", ("auto", "drop_at_one", *_of_group("least"))),
)
IN_A_ROW = 2
BUILT_IN = [shown_preset(name) for name in (*PRESETS, CUSTOM)]
# What stands in the field for a name until an own preset is chosen.
OWN_NAME = "My preset"


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
        for at in range(0, len(names), IN_A_ROW):
            with gr.Row():
                for name in names[at : at + IN_A_ROW]:
                    made[name] = _component(KNOBS[name], shown[name], elem_id(name.replace(".", "_")))

    def fold(name: str, title: str, names: Sequence[str], hint: str = "") -> None:
        rare = [name for name in names if KNOBS[name].rare]
        with gr.Accordion(title, open=False, elem_id=elem_id(f"fold_{name}")):
            if hint:
                gr.Markdown(hint, elem_classes=["accel-hint"])
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
        with gr.Accordion("Advanced", open=False, elem_id=elem_id("fold_advanced")):
            for group in METHODS:
                switch, names = f"{group.name}.on", [name for name in _of_group(group.name) if name != f"{group.name}.on"]
                # The switch stands in the header of the fold (style.css), so that one sees what is on without opening it.
                with gr.Column(elem_id=elem_id(f"method_{group.name}"), elem_classes=["accel-method"], min_width=0):
                    made[switch] = _component(KNOBS[switch], shown[switch], elem_id(switch.replace(".", "_")), "accel-switch")
                    fold(group.name, group.title, names, group.hint)
            for name, title, names in LAST[:1]:
                fold(name, title, names)
            with gr.Accordion("Own presets", open=False, elem_id=elem_id("fold_own")):
                with gr.Row():
                    own_name = gr.Textbox(OWN_NAME, label="Name of your preset", max_lines=1, elem_id=elem_id("own_name"))
                    own_name.do_not_save_to_config = True
                    save = gr.Button("Save these settings", size="sm", elem_id=elem_id("own_save"))
                    delete = gr.Button("Delete preset", size="sm", elem_id=elem_id("own_delete"))
                said = gr.Markdown("", elem_id=elem_id("own_said"))
            for name, title, names in LAST[1:]:
                fold(name, title, names)
        # The browser presses it when something changed, and tells the sizes; a component that is not visible would not be there.
        refresh = gr.Button("Preview", elem_id=elem_id("refresh"), elem_classes=["accel-hidden"])
        # The other tab's scripts press it when they saved or deleted a preset.
        listing = gr.Button("Preview", elem_id=elem_id("listing"), elem_classes=["accel-hidden"])
        # The browser presses it when a model of another family was loaded.
        refill = gr.Button("Preview", elem_id=elem_id("refill"), elem_classes=["accel-hidden"])
        sizes = gr.Textbox("", visible=False)

    filled = [name for name in KNOBS if name not in NOT_IN_PRESETS]
    knobs_of_preset = {"inputs": [made["preset"]], "outputs": [made[name] for name in filled], "show_progress": False, "queue": False}
    by_hand = f"accel.isTouched({elem_id('preset')!r})"
    made["preset"].input(filling.fill, _js=f"(chosen) => [{by_hand} ? chosen : null]", **knobs_of_preset)
    for name in METHOD_KNOBS:
        # In the browser: no call of the server for every move of a slider.
        made[name].input(fn=None, _js=_becomes_custom(made[name].elem_id), inputs=[made["preset"]], outputs=[made["preset"]])

    controls = [made[name] for name in KNOBS]
    look = {
        "fn": show,
        "_js": f"(...args) => accel.sizes({tab!r}, args)",
        "inputs": [sizes, *controls],
        "outputs": [badge, strip, sentence],
        "show_progress": False,
        # Nothing here waits behind the pictures that are drawn.
        "queue": False,
    }
    refresh.click(**look)
    Context.root_block.load(filling.fill_page, **knobs_of_preset)
    refill.click(filling.fill_anew, **knobs_of_preset)
    listing.click(filling.listed, inputs=[], outputs=[made["preset"]], show_progress=False, queue=False)
    tell = {"fn": None, "_js": f"() => accel.ownChanged({tab!r})", "inputs": [], "outputs": []}
    at_once = {"outputs": [made["preset"], said], "show_progress": False, "queue": False}
    save.click(filling.save, inputs=[own_name, *controls], **at_once).then(**tell)
    sure = {"_js": "(name, chosen) => [accel.isSure(name) ? name : '', chosen]", "inputs": [own_name, made["preset"]]}
    delete.click(filling.delete, **sure, **at_once).then(**tell)
    named = {"_js": f"(preset, name) => accel.nameFor(preset, name, {BUILT_IN})", "inputs": [made["preset"], own_name]}
    made["preset"].change(fn=None, **named, outputs=[own_name])
    readers = [filling.reader(name) for name in KNOBS]
    return Built(controls, list(zip(controls, readers)), readers)


def _becomes_custom(elem_id: str) -> str:
    """What the browser makes of the preset at an `input` of a knob."""
    return f"(preset) => accel.isTouched({elem_id!r}) ? {shown_preset(CUSTOM)!r} : preset"


def _component(knob: Knob, value: Any, elem_id: str, kind: str = "accel-flag") -> Any:
    given: dict[str, Any] = {"label": knob.label, "info": knob.hint, "elem_id": elem_id, "value": filling.shown(knob, value)}
    if knob.kind == "flag":
        return gr.Checkbox(**given, elem_classes=[kind])
    if knob.kind == "choice":
        return gr.Radio(list(knob.texts), **given)
    low, high = knob.rule["low"], knob.rule["high"]
    if not filling.is_slider(knob):
        # Without its bound: gradio refuses a whole job for a number below it, and does not say which number.
        return gr.Number(precision=0 if knob.kind == "integer" else None, **given)
    return gr.Slider(low, high, step=1 if knob.kind == "integer" else knob.rule.get("step", 0.01), **given)
