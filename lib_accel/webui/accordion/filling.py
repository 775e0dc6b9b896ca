"""What fills the accordion: presets that were chosen, PNG info that was pasted, the user's own presets."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import gradio as gr

from ...core.fields import SettingError
from ...settings.infotext import PRESET_KEY, from_infotext, shown_preset
from ...settings.job import CUSTOM, NOT_IN_PRESETS, preset_values
from ...settings.presets import PRESETS
from ...settings.schema import KNOBS, Knob
from ..host import facts
from . import refused, user_presets

SENTENCES = {
    "quality": "At most fine texture changes. Saves time at any size, with most samplers.",
    "balanced": "Texture and small details change a little, sometimes a small object. Saves time at any size, with most samplers.",
    "fast": "Saves more time: more details change, and small objects may move.",
    "draft": "For finding seeds and prompts: the least time; objects may differ. Redraw the pictures you keep with another preset.",
    CUSTOM: "The settings under Advanced, as they are.",
}
OWN_SENTENCE = "One of your own presets."


def sentence_of(name: str) -> str:
    """What is said of a preset, by its name in settings."""
    return SENTENCES.get(name, OWN_SENTENCE)


def preset_choices() -> list[str]:
    """All presets, the user's own last."""
    return [shown_preset(name) for name in (*PRESETS, CUSTOM)] + list(user_presets.read()[0])


def fill(chosen: Any) -> list[Any]:
    """The knobs for a preset that was chosen, for the model that is loaded. None: by nobody, so they stay."""
    values = _meant(chosen)
    # What PNG info pinned is this machine's to say again.
    pinned = {knob: 0 for knob in KNOBS if knob.startswith("least.")} if values else {}
    return _updates({**pinned, **values})


def fill_anew(chosen: Any) -> list[Any]:
    """The knobs for the preset ``chosen`` when a model of another family was loaded. Custom's stay as they are."""
    return _updates(_meant(chosen))


def fill_page(chosen: Any) -> list[Any]:
    """The same for a page that opens with the preset ``chosen``.

    The host keeps the values and ranges of all controls in a file when it first starts, and what the file says stands on the page from
    then on. So what a preset fills is filled anew, as it is now and for this model, and sliders get their ranges of now. Custom and its
    knobs, and what no preset fills, stay as somebody saved them.
    """
    return _updates(_meant(chosen), ranges=True)


def _meant(chosen: Any) -> dict[str, Any]:
    """The knob values of a preset as the page names it. None for Custom and for what is no preset."""
    if chosen is None:
        return {}
    name = str(chosen).lower() if str(chosen).lower() in (*PRESETS, CUSTOM) else str(chosen)
    try:
        return {} if name == CUSTOM else preset_values(name, loaded_family(), user_presets.read()[0])
    except SettingError:
        return {}


def _updates(values: dict[str, Any], ranges: bool = False) -> list[Any]:
    updates = []
    for name, knob in KNOBS.items():
        if name not in NOT_IN_PRESETS:
            given = {"minimum": knob.rule["low"], "maximum": knob.rule["high"]} if ranges and is_slider(knob) else {}
            # The file names controls by their labels, which have to differ; on the page the fold says whose they are.
            given |= {"label": knob.short} if ranges else {}
            updates.append(gr.update(**given, value=shown(knob, values[name])) if name in values else gr.update(**given))
    return updates


def listed() -> dict[str, Any]:
    """An update for the preset: the other tab may have saved or deleted one."""
    return gr.update(choices=preset_choices())


def loaded_family() -> str:
    """The family of the model that is loaded; ``sd1`` while there is none."""
    return facts.shape_of(facts.loaded_unet())


class Chosen(dict):
    """An update of the preset that is its value where a text is wanted: for a request with ``infotext`` hosts on gradio 4 make one of it,
    as they know updates by the name that gradio 3 gave them."""

    def __str__(self) -> str:
        return str(self.get("value", ""))


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
            text = refused.marked(error)
            return Chosen(gr.update(value=text, choices=[*preset_choices(), text])) if name == "preset" else None
        if name == "preset":
            return Chosen(gr.update(value=shown_preset(settings["preset"]), choices=preset_choices()))
        return shown(KNOBS[name], settings[name])

    return read


def save(name: Any, *values: Any) -> list[Any]:
    """Keep the controls' ``values`` as the user's preset ``name``; updates for the preset and for what is said about it."""
    try:
        user_presets.save(name, {knob: value for knob, value in zip(KNOBS, values) if knob not in NOT_IN_PRESETS})
    except (SettingError, OSError) as error:
        return [gr.update(), plain(str(error))]
    return [gr.update(choices=preset_choices(), value=name.strip()), "Saved."]


def delete(name: Any, chosen: Any) -> list[Any]:
    """Forget the user's preset ``name``; updates for the preset (Custom if it was ``chosen``) and for what is said about it."""
    name = str(name).strip()
    if not name:
        return [gr.update(), ""]
    try:
        user_presets.delete(name)
    except (SettingError, OSError) as error:
        return [gr.update(), plain(str(error))]
    return [gr.update(choices=preset_choices(), value=shown_preset(CUSTOM) if chosen == name else chosen), "Deleted."]


def shown(knob: Knob, value: Any) -> Any:
    return knob.text(value) if knob.kind == "choice" else value


def is_slider(knob: Knob) -> bool:
    return knob.kind in ("number", "integer") and knob.rule["high"] is not None


def plain(text: str) -> str:
    """Text that somebody else may have written, for Markdown: no markup of any kind is left in it."""
    return "".join(c if c.isalnum() or c in " .,:;-" else f"&#{ord(c)};" for c in text)
