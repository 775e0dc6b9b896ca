"""What fills the accordion: presets that were chosen, PNG info that was pasted, the user's own presets."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import gradio as gr

from ..families import family_of
from ..infotext import PRESET_KEY, from_infotext, shown_preset
from ..job_settings import CUSTOM, NOT_IN_PRESETS, REFUSED, preset_values
from ..knobs import KNOBS, Knob
from ..presets import PRESETS
from ..settings import SettingError
from ..sites import UnsupportedModelError
from . import host, user_presets

SENTENCES = {
    "quality": "Changes least: fine texture at most; saves some time at large sizes.",
    "balanced": "Texture and small details change a little; saves time at any size.",
    "fast": "Saves most: more detail changes, and small things may move.",
    CUSTOM: "The knobs below, as they are.",
}
OWN_SENTENCE = "One of your own presets."


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
            return [gr.update(value=plain(str(error)))] + [gr.update() for knob in KNOBS if knob not in NOT_IN_PRESETS]
        # What PNG info pinned is this machine's to say again.
        values = {**{knob: 0 for knob in KNOBS if knob.startswith("least.")}, **values}
    updates = [
        gr.update(value=shown(KNOBS[knob], values[knob])) if knob in values else gr.update() for knob in KNOBS if knob not in NOT_IN_PRESETS
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
        return shown(KNOBS[name], settings[name])

    return read


def save(name: Any, *values: Any) -> list[Any]:
    """Keep the controls' ``values`` as the user's preset ``name``; updates for the preset and for what is said about it."""
    try:
        user_presets.save(name, {knob: value for knob, value in zip(KNOBS, values) if knob not in NOT_IN_PRESETS})
    except (SettingError, OSError) as error:
        return [gr.update(), plain(str(error))]
    return [gr.update(choices=preset_choices(), value=name.strip()), "Saved. The other tab lists it after Reload UI."]


def delete(name: Any) -> list[Any]:
    """Forget the user's preset ``name``; updates for the preset and for what is said about it."""
    try:
        user_presets.delete(str(name).strip())
    except (SettingError, OSError) as error:
        return [gr.update(), plain(str(error))]
    return [gr.update(choices=preset_choices(), value=shown_preset(CUSTOM)), "Deleted."]


def shown(knob: Knob, value: Any) -> Any:
    return knob.text(value) if knob.kind == "choice" else value


def plain(text: str) -> str:
    """Text that somebody else may have written, for Markdown: no markup of any kind is left in it."""
    return "".join(c if c.isalnum() or c in " .,:;-" else f"&#{ord(c)};" for c in text)
