"""The script's controls, made from their table. `build` may run several times for one tab (the API does); nothing made here is kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import gradio as gr

from ..accordion.ui import Built
from ..host import requests
from .chips import show as show_words
from .controls import CONTROLS, IN_REQUESTS, FormControl, from_infotext

INTRODUCTION = "The prompt above is the source. Each edit below is drawn with the same seed and keeps the source's composition."
BLEND, MORE = "Local blend: limit where the picture changes", "Layers, hires pass, heat maps, memory"
# Rows of controls, from top to bottom; a title folds its rows.
ROWS: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    ("", (("kind", "cross", "self"), ("x", "x_values"), ("y", "y_values"), ("off", "keep_source", "times"))),
    (BLEND, (("blend", "subtract"), ("threshold", "start"))),
    (MORE, (("self_source", "cross_layers", "self_layers"), ("hires", "heat", "at_once"))),
)
LINES = 4
# Choices up to this many are all in sight, where the host translates them.
IN_SIGHT = 4


def build(elem_id: Callable[[str], str], tab: str) -> Built:
    """Build the controls of ``tab`` inside the host's blocks."""
    made: dict[str, Any] = {}
    gr.Markdown(INTRODUCTION)
    made["edits"] = _component(CONTROLS["edits"], elem_id)
    chips = gr.HTML("", elem_id=elem_id("chips"))
    for title, rows in ROWS:
        if title:
            with gr.Accordion(title, open=False, elem_id=elem_id("fold_" + title.split(" ")[0].strip(",:").lower())):
                _rows(rows, made, elem_id)
        else:
            _rows(rows, made, elem_id)
    # The browser presses it when the prompt or the edits changed, and tells the prompt.
    refresh = gr.Button("Preview", elem_id=elem_id("refresh"), elem_classes=["accel-hidden"])
    prompt = gr.Textbox("", visible=False)
    refresh.click(
        show_words,
        _js=f"(...args) => accel.prompt({tab!r}, args)",
        inputs=[prompt, *(made[name] for name in CONTROLS)],
        outputs=[chips],
        show_progress=False,
        queue=False,
    )
    readers = [_reader(name) for name in CONTROLS]
    fields = [*zip((made[name] for name in CONTROLS), readers), *requests.infotext_fields(IN_REQUESTS)]
    return Built([made[name] for name in CONTROLS], fields, readers)


@cache
def _reader(name: str) -> Callable[[dict], Any]:
    """One function for both tabs: "Send to" compares them."""
    return partial(from_infotext, name)


def _rows(rows: tuple[tuple[str, ...], ...], made: dict[str, Any], elem_id: Callable[[str], str]) -> None:
    for names in rows:
        with gr.Row():
            for name in names:
                made[name] = _component(CONTROLS[name], elem_id)


def _component(control: FormControl, elem_id: Callable[[str], str]) -> Any:
    given = {"label": control.label, "info": control.hint, "value": control.default, "elem_id": elem_id(control.name)}
    if control.kind == "flag":
        return gr.Checkbox(**given, elem_classes=["accel-flag"])
    if control.kind == "choice":
        return (gr.Radio if len(control.choices) <= IN_SIGHT else gr.Dropdown)(list(control.choices), **given)
    if control.kind in ("number", "integer"):
        return gr.Slider(control.low, control.high, step=1 if control.kind == "integer" else 0.01, **given)
    lines = LINES if control.kind == "lines" else 1
    return gr.Textbox(lines=lines, max_lines=20 if lines > 1 else 1, **given)
