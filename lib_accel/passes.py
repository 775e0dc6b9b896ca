"""What one pass of a job runs: the methods with their windows, for the first pass and for the hires pass."""

from __future__ import annotations

from typing import Any

from .job_settings import Settings
from .knobs import GROUPS, METHOD_GROUPS
from .schedule import Window

FIRST, HIRES = "first pass", "hires pass"


def methods_for(settings: Settings, place: str) -> tuple[tuple[Any, ...], str | None]:
    """The methods of the pass ``place`` (`FIRST` or `HIRES`), and why there are none (a clause), if so.

    Agents merge tokens themselves and replace self-attention; merging and downsampling wait while they act.
    """
    if place == FIRST and not settings["first_pass"]:
        return (), "the first pass is left alone, as set"
    if place == HIRES:
        if settings["hires.profile"] == "off":
            return (), "the hires pass is left alone, as set"
        if settings["hires.profile"] == "own":
            settings = _own(settings)
    methods = []
    taken = settings.window("agents") if settings["agents.on"] else None
    for group in GROUPS:
        if not group.method or not settings[f"{group.name}.on"]:
            continue
        window = settings.window(group.name)
        windows = [window] if group.name == "agents" or taken is None else _without(window, taken)
        fields = {field: settings[f"{group.name}.{field}"] for field in group.described_by.__dataclass_fields__ if field != "window"}
        methods += [group.described_by(**fields, window=w) for w in windows]
    return tuple(methods), None if methods else "every method is switched off"


def _own(settings: Settings) -> Settings:
    """The settings with the hires pass's own profile in place."""
    ratio, factor = settings["hires.merging_ratio"], settings["hires.downsampling_factor"]
    changes: dict[str, Any] = {f"{group}.start": 0.0 for group in METHOD_GROUPS if group != "agents"}
    changes |= {f"{group}.end": 1.0 for group in METHOD_GROUPS if group != "agents"}
    changes |= {"agents.on": settings["hires.agents"], "merging.on": ratio > 0, "downsampling.on": factor > 1}
    return settings.replaced(changes | {"merging.ratio": ratio, "downsampling.factor": factor})


def _without(window: Window, taken: Window) -> list[Window]:
    """What is left of ``window`` outside ``taken``."""
    parts = [(window[0], min(window[1], taken[0])), (max(window[0], taken[1]), window[1])]
    return [part for part in parts if part[0] < part[1]]
