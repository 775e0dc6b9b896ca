"""Settings as PNG info: non-defaults only, under keys that hosts' parsers take, and back.

A host quotes values that hold a comma, a colon or a line break, and many readers of PNG info know no quotes: they cut the line at every
comma and drop what has two colons. So no value of ours holds any of these; see `written` and `unquoted`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..core.fields import SettingError
from .job import CUSTOM, OwnPresets, Settings, matching_preset
from .presets import PRESETS
from .schema import KNOBS

# The key that says "on"; its value is the preset.
PRESET_KEY = "Accel"
REPORT_KEY = "Accel report"
# What the host's result, as data, holds the account under. No PNG info has it.
ACCOUNT_KEY = "Accel account"

KEYS: dict[str, str] = {knob.infotext: name for name, knob in KNOBS.items() if name not in ("enabled", "preset")}


# What a kept guidance direction means in PNG info that does not name these: in version 0.1.0 they were fixed. So they are written with
# every kept direction.
_FIRST_DIRECTION = {"guidance.decay": 0.9, "guidance.order": 0}

_SIGNS = {sign: f"%{ord(sign):02X}" for sign in '%,:"\n\r'}
# Stands for no letter: hosts drop a value that is empty, and the blanks around one.
_NOTHING = "%00"
_WRITTEN = re.compile("%(?:" + "|".join([*(code[1:] for code in _SIGNS.values()), "78", _NOTHING[1:]]) + ")")
# Hosts take such a value for a width and a height.
_TWO_NUMBERS = re.compile(r"(\d+)x(\d+)")


def written(text: Any) -> str:
    """``text`` as a value of PNG info, which `read_back` reads: ``%2C`` for a comma, as in addresses."""
    text = "".join(_SIGNS.get(sign, sign) for sign in str(text))
    text = _TWO_NUMBERS.sub(r"\1%78\2", text) if _TWO_NUMBERS.fullmatch(text) else text
    if not text or text[0].isspace():
        text = _NOTHING + text
    return text + _NOTHING if text[-1].isspace() else text


def read_back(value: Any) -> Any:
    """What `written` wrote; values that are no text as they are."""
    return _WRITTEN.sub(lambda code: "" if code[0] == _NOTHING else chr(int(code[0][1:], 16)), value) if isinstance(value, str) else value


def unquoted(sentences: str) -> str:
    """Sentences as a value of PNG info, for people: other punctuation, not to be read back."""
    for sign, other in ((": ", " - "), (":", "-"), (",", ";"), ('"', "'")):
        sentences = sentences.replace(sign, other)
    return " ".join(sentences.split())


def is_ours(key: str) -> bool:
    """Whether a key of PNG info is one of Accel's."""
    return key in KEYS or key in (PRESET_KEY, REPORT_KEY)


def shown_preset(name: str) -> str:
    """A preset's name as people read it."""
    return name.title() if name in (CUSTOM, *PRESETS) else name


def to_infotext(settings: Settings) -> dict[str, str]:
    """PNG info of effective ``settings``; empty when they are off."""
    if not settings["enabled"]:
        return {}
    values = {name: value for name, value in settings.changed().items() if name not in ("enabled", "preset")}
    if settings["guidance.on"] and settings["guidance.reuse"]:
        values |= {name: settings[name] for name in _FIRST_DIRECTION}
    told = {name: KNOBS[name].text(value) for name, value in values.items()}
    shown = shown_preset(settings["preset"])
    return {PRESET_KEY: written(shown)} | {KNOBS[name].infotext: written(text) for name, text in told.items()}


def from_infotext(params: Mapping[str, Any], own: OwnPresets | None = None) -> Settings | None:
    """The settings that PNG info tells; None when it tells none. SettingError for values that cannot be.

    The preset keeps its name if it still means these settings, else it is Custom.
    """
    if PRESET_KEY not in params:
        return None
    given: dict[str, Any] = {"enabled": True, "preset": CUSTOM}
    for key, name in KEYS.items():
        if key in params:
            try:
                given[name] = KNOBS[name].read(read_back(params[key]))
            except SettingError as error:
                raise SettingError(f"PNG info: {error}") from None
    if given.get("guidance.on") and given.get("guidance.reuse"):
        given = {**_FIRST_DIRECTION, **given}
    settings = Settings(given)
    return settings.replaced({"preset": matching_preset(settings, read_back(str(params[PRESET_KEY])).strip(), own)})
