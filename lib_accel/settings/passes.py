"""What one pass of a job runs: the methods with their windows, for the first pass and for the hires pass."""

from __future__ import annotations

from typing import Any

from ..core.schedule import Window
from ..methods import GuidanceSkip
from .job import Settings
from .schema import GROUPS, WINDOWED_GROUPS

FIRST, HIRES = "first pass", "hires pass"


# Acts at guidance scale 1 alone.
AT_SCALE_ONE = GuidanceSkip(when="after", after=1.0)


def methods_for(settings: Settings, place: str, scale: float | None = None) -> tuple[tuple[Any, ...], str | None]:
    """The methods of the pass ``place`` (`FIRST` or `HIRES`), and why there are none (a clause), if so. scale: the guidance scale.

    Agents merge tokens themselves and replace self-attention; merging and downsampling wait while they act.
    """
    if place == FIRST and not settings["first_pass"]:
        return (), "the first pass is left alone, as set"
    if place == HIRES:
        if settings["hires.profile"] == "off":
            return (), "the hires pass is left alone, as set"
        if settings["hires.profile"] == "own":
            settings = _own(settings)
    methods: list[Any] = []
    if scale == 1 and settings["drop_at_one"] and not settings["guidance.on"]:
        methods.append(AT_SCALE_ONE)
    taken = settings.window("agents") if settings["agents.on"] else None
    for group in GROUPS:
        if not group.method or not settings[f"{group.name}.on"]:
            continue
        fields = {field: settings[f"{group.name}.{field}"] for field in group.fields}
        if not group.windowed:
            methods.append(group.described_by(**fields))
            continue
        window = settings.window(group.name)
        windows = [window] if group.name == "agents" or taken is None else _without(window, taken)
        methods += [group.described_by(**fields, window=w) for w in windows]
    return tuple(methods), None if methods else "every method is switched off"


def _own(settings: Settings) -> Settings:
    """The settings with the hires pass's own profile in place."""
    ratio, factor, gate = settings["hires.merging_ratio"], settings["hires.downsampling_factor"], settings["hires.gate"]
    changes: dict[str, Any] = {f"{group}.start": 0.0 for group in WINDOWED_GROUPS if group != "agents"}
    changes |= {f"{group}.end": 1.0 for group in WINDOWED_GROUPS if group != "agents"}
    changes |= {"tgate.on": gate < 1, "tgate.gate": gate}
    changes |= {"agents.on": settings["hires.agents"], "merging.on": ratio > 0, "downsampling.on": factor > 1}
    return settings.replaced(changes | {"merging.ratio": ratio, "downsampling.factor": factor})


def _without(window: Window, taken: Window) -> list[Window]:
    """What is left of ``window`` outside ``taken``."""
    parts = [(window[0], min(window[1], taken[0])), (max(window[0], taken[1]), window[1])]
    return [part for part in parts if part[0] < part[1]]
