"""Which knobs of the accordion are marked: those without effect as the others stand, and those that differ from a preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...settings.job import CUSTOM, METHOD_KNOBS, Settings, preset_values
from ...settings.presets import PRESETS
from ...settings.schema import GROUPS, KNOBS

# Where more differ from every preset, nobody set them one by one.
MOST_CHANGED = 8


def idle_knobs(settings: Settings) -> list[str]:
    """The knobs that have no effect as the others stand: those of a method that is off, and those that another one excludes."""
    idle = []
    for group in GROUPS:
        if group.method:
            needs = group.method.declaration.needs
            for name in (name for name, knob in KNOBS.items() if knob.group == group.name and not name.endswith(".on")):
                other, values = needs.get(name.partition(".")[2], (None, ()))
                if not settings[f"{group.name}.on"] or (other is not None and settings[f"{group.name}.{other}"] not in values):
                    idle.append(name)
    idle += [name for name, knob in KNOBS.items() if knob.group == "least" and not settings["auto"]]
    return idle + [n for n, k in KNOBS.items() if k.group == "hires" and n != "hires.profile" and settings["hires.profile"] != "own"]


def changed_knobs(settings: Settings, family: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """Of Custom: the knobs that differ from the preset that is nearest, each with that preset's value; none where most of them do."""
    if settings["preset"] != CUSTOM:
        return {}
    fills = [preset_values(name, family, own) for name in (*PRESETS, *own)]
    differing = [{name: values[name] for name in METHOD_KNOBS if name in values and values[name] != settings[name]} for values in fills]
    nearest = min(differing, key=len)
    return (
        {name: KNOBS[name].text(v) if KNOBS[name].kind == "choice" else v for name, v in nearest.items()}
        if len(nearest) <= MOST_CHANGED
        else {}
    )
