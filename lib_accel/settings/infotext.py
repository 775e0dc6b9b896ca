"""Settings as PNG info: non-defaults only, under keys that hosts' parsers take, and back."""

from __future__ import annotations

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
    return {PRESET_KEY: shown_preset(settings["preset"])} | {
        KNOBS[knob].infotext: KNOBS[knob].text(value) for knob, value in settings.changed().items() if knob not in ("enabled", "preset")
    }


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
                given[name] = KNOBS[name].read(params[key])
            except SettingError as error:
                raise SettingError(f"PNG info: {error}") from None
    settings = Settings(given)
    return settings.replaced({"preset": matching_preset(settings, str(params[PRESET_KEY]).strip(), own)})
