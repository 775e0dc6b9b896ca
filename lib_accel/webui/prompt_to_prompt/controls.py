"""The script's settings as a table: what each is called, what it means, its name in PNG info, and how what a host sends is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ...core.fields import SettingError, checked
from ...settings.infotext import read_back, written
from ..host.requests import by_name
from .lines import digits

TITLE = "Prompt-to-Prompt"
NONE, EDIT, CROSS, SELF, WEIGHT, THRESHOLD, SEED = "None", "Edit", "Cross window", "Self window", "Word weight", "Blend threshold", "Seed"
AXES = (NONE, EDIT, CROSS, SELF, WEIGHT, THRESHOLD, SEED)
KINDS = ("auto", "replace", "refine")
SELF_SOURCES = ("map", "value", "keys_values", "none")


@dataclass(frozen=True)
class FormControl:
    """One setting. kind: ``text`` | ``lines`` | ``choice`` | ``number`` | ``integer`` | ``flag``. key: its name in PNG info."""

    name: str
    label: str
    hint: str
    default: Any
    kind: str = "text"
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"P2P {self.label[0].lower()}{self.label[1:]}"

    def read(self, value: Any) -> Any:
        """``value``, which may come from PNG info as a text, in its normal form. SettingError."""
        name = f"{TITLE}: {self.label}"
        if value is None:
            return self.default
        if self.kind in ("text", "lines"):
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                value = digits(value)
            return checked(name, value, {"kind": "text"}).strip()
        if self.kind == "flag" and str(value) in ("True", "False"):
            value = str(value) == "True"
        if self.kind in ("number", "integer") and isinstance(value, str):
            with suppress(ValueError):
                value = float(value)
        return checked(name, value, {"kind": self.kind, "low": self.low, "high": self.high, "choices": self.choices})


CONTROLS: dict[str, FormControl] = {
    control.name: control
    for control in (
        FormControl(
            "edits", "Edits", "one per line: a whole prompt, cat -> dog, + a hat, red*1.5; separate several on one line with ;", "", "lines"
        ),
        FormControl("kind", "Edit type", "auto: replace if both have the same word count, else refine", "auto", "choice", choices=KINDS),
        FormControl("cross", CROSS, "higher: closer to the source; with a window for one word: 0.8; lion 0.4", "0.8"),
        FormControl("self", SELF, "higher: shapes stay closer to the source", "0.4"),
        FormControl("self_source", "Self-attention from", "map: the layout; value: the texture", "map", "choice", choices=SELF_SOURCES),
        FormControl("cross_layers", "Cross-attention layers", "all, or down, mid, up, 1/4 (and coarser); fewer: more freedom", "all"),
        FormControl("self_layers", "Self-attention layers", "the same choices; with finer layers shapes stay closer to the source", "1/4"),
        FormControl("blend", "Blend words", "only the places of these words may change; words of the source : words of the edits", ""),
        FormControl("subtract", "Words to leave out of the blend", "the places of these words never change", ""),
        FormControl("threshold", THRESHOLD, "higher: a smaller area may change", 0.3, "number", 0, 1),
        FormControl("start", "Blend start", "higher: the composition may change more", 0.2, "number", 0, 1),
        FormControl("x", "X axis", "what changes from column to column", EDIT, "choice", choices=AXES),
        FormControl("x_values", "X values", "separated by commas; empty: all edits, or the seeds of the batch count", ""),
        FormControl("y", "Y axis", "what changes from row to row", NONE, "choice", choices=AXES),
        FormControl("y_values", "Y values", "as for X; a word weight: -1, 0, 2 or smiling*2", ""),
        FormControl(
            "off", "Show without control", "on: also draws each edit without control, with the same seed and prompt", False, "flag"
        ),
        FormControl("keep_source", "Keep the source", "on: its picture is shown and saved, too", True, "flag"),
        FormControl("hires", "Also in hires", "off: the hires pass keeps only the word weights and the local blend", False, "flag"),
        FormControl("heat", "Heat map words", "draws where the model sees these words in each picture", ""),
        FormControl("times", "Times", "on: the legend shows the seconds of each picture", False, "flag"),
        FormControl("at_once", "Pictures at once", "includes the source; higher: faster, more memory", 4, "integer", 2, 64),
    )
}
# The source as it was drawn, with the texts of styles; and the negative prompt, where the host takes styles out of it.
SOURCE_KEY, NEGATIVE_KEY = "P2P source prompt", "P2P negative prompt"
RESULT_KEY = "P2P result"
# In older PNG info: without styles, and with values as they were typed.
OLD_SOURCE_KEY = "P2P source"
# The arguments of a request to the API.
EXAMPLE = [{"edits": "cat -> dog", "cross": "0.8"}]
# What belongs to a grid and not to one picture of it.
OF_GRIDS = ("x", "x_values", "y", "y_values", "off", "heat", "times", "at_once")
# Told even when they have their defaults.
TOLD = ("edits", "cross", "self")

FormValues = dict[str, Any]


def read(args: tuple, from_request: bool = False) -> FormValues:
    """The settings from the script's arguments: in the order of `CONTROLS`, or a dict by name as the first. None means the default.
    from_request: only by name. SettingError.
    """
    given = by_name(args)
    if given is None and from_request:
        raise SettingError(f"{TITLE}: script_args must be a list of one object with settings by name, such as {json.dumps(EXAMPLE)}.")
    given = dict(zip(CONTROLS, args)) if given is None else dict(given)
    unknown = [str(name) for name in given if name not in CONTROLS]
    if unknown:
        raise SettingError(f"{TITLE}: {unknown[0]!r} is no setting; there are {', '.join(CONTROLS)}.")
    return {name: control.read(given.get(name)) for name, control in CONTROLS.items()}


def to_infotext(settings: FormValues, source: str, of_grid: bool, negative: str | None = None) -> dict[str, Any]:
    """PNG info: the source and the negative prompt, the edits and what is not as by default. of_grid: the grid's, too."""
    told = {"Script": TITLE, SOURCE_KEY: written(source)}
    if negative is not None:
        told[NEGATIVE_KEY] = written(negative)
    for name, control in CONTROLS.items():
        if (of_grid or name not in OF_GRIDS) and (name in TOLD or settings[name] != control.default):
            told[control.key] = written(settings[name])
    return told


def from_infotext(name: str, params: Mapping[str, Any]) -> Any:
    """What pasted PNG info means for the setting ``name``: None where it tells nothing of us or what cannot be."""
    if not is_told(params):
        return None
    value = params.get(CONTROLS[name].key)
    try:
        return CONTROLS[name].read(read_back(value) if SOURCE_KEY in params else value)
    except SettingError:
        return None


def is_told(params: Mapping[str, Any]) -> bool:
    """Whether PNG info is of one of the script's pictures."""
    return SOURCE_KEY in params or OLD_SOURCE_KEY in params


def prompts_told(params: Mapping[str, Any]) -> dict[str, str]:
    """The prompts of the job in pasted PNG info, by the host's names for them: those that it does not read itself."""
    if SOURCE_KEY not in params:
        return {"Prompt": params[OLD_SOURCE_KEY]} if params.get(OLD_SOURCE_KEY) else {}
    told = {"Prompt": read_back(params[SOURCE_KEY])}
    return told | ({"Negative prompt": read_back(params[NEGATIVE_KEY])} if NEGATIVE_KEY in params else {})


def _args_told(params: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The arguments of the script in pasted PNG info."""
    if not is_told(params):
        return None
    values = {name: from_infotext(name, params) for name in CONTROLS}
    return [{name: value for name, value in values.items() if value is not None}]


# What pasted PNG info sets in a request to the API.
IN_REQUESTS = {
    "prompt": lambda params: prompts_told(params).get("Prompt"),
    "negative_prompt": lambda params: prompts_told(params).get("Negative prompt"),
    "script_name": lambda params: TITLE.lower() if is_told(params) else None,
    "script_args": _args_told,
}


def restore_source(params: dict[str, Any]) -> None:
    """The source goes back to the prompt box, where the edited prompt was pasted. What the host took out of it as a style stands in it.

    Fields that the user's option "Disregard fields from pasted infotext" left out stay out.
    """
    params.update((name, text) for name, text in prompts_told(params).items() if name in params)
    if SOURCE_KEY in params and "Styles array" in params:
        params["Styles array"] = []
