"""What one pass of a job runs: the methods with their windows, for the first pass and for the hires pass."""

from __future__ import annotations

from typing import Any

from ..core.reasons import Reason
from ..core.schedule import Window
from .job import Settings
from .schema import GROUPS, Group

FIRST, HIRES = "first pass", "hires pass"
_GROUPS = tuple(group for group in GROUPS if group.method)


def methods_for(settings: Settings, place: str, scale: float | None = None) -> tuple[tuple[Any, ...], str | None]:
    """The methods of the pass ``place`` (`FIRST` or `HIRES`), and why there are none (a clause), if so. scale: the guidance scale.

    Where one displaces others (agents merge tokens themselves and replace self-attention), those that act on the same wait meanwhile.
    """
    if place == FIRST and not settings["first_pass"]:
        return (), "the first pass is left alone, as set"
    if place == HIRES and settings["hires.profile"] == "off":
        return (), "the hires pass is left alone, as set"
    settings = _in_pass(settings, place)
    at_one = scale == 1 and settings["drop_at_one"]
    taken = _taken(settings)
    methods: list[Any] = []
    for group in _GROUPS:
        declaration = group.method.declaration
        if settings[f"{group.name}.on"]:
            methods += _of_group(group, settings, *taken.get(declaration.acts_on, (group, None)))
        elif at_one and declaration.at_scale_one:
            methods.append(declaration.at_scale_one())
    return tuple(methods), None if methods else "every method is switched off"


def displaced(settings: Settings, place: str) -> list[Reason]:
    """Which methods wait through all of their steps, and for whom (clauses): `methods_for` leaves them out."""
    settings = _in_pass(settings, place)
    taken, told = _taken(settings), []
    for group in _GROUPS:
        owner, window = taken.get(group.method.declaration.acts_on, (group, None))
        waits = owner is not group and group.windowed and settings[f"{group.name}.on"]
        if waits and not _without(settings.window(group.name), window):
            names = {"method": group.method.__name__, "other": owner.method.__name__}
            told.append(Reason.of("displaced", "{method} off: {other} acts in all of its steps", **names))
    return told


def without_methods(settings: Settings) -> Settings:
    """``settings`` with every method off."""
    return settings.replaced({f"{group.name}.on": False for group in _GROUPS})


def _in_pass(settings: Settings, place: str) -> Settings:
    """``settings`` as the hires pass's own profile, if it has one, changes them in that pass."""
    changes = (settings.in_hires(group) for group in _GROUPS) if place == HIRES else ()
    return settings.replaced({name: value for one in changes for name, value in one.items()})


def _taken(settings: Settings) -> dict[str, tuple[Group, Window]]:
    """By what methods act on: which of them displaces the others, and in what part of the pass."""
    displacing = (group for group in _GROUPS if group.method.declaration.displaces and settings[f"{group.name}.on"])
    return {group.method.declaration.acts_on: (group, settings.window(group.name)) for group in displacing}


def _of_group(group: Group, settings: Settings, owner: Group, taken: Window | None) -> list[Any]:
    """The method of ``group``: once for each part of its window that is not ``taken`` by another, the ``owner``."""
    fields = {field: settings[f"{group.name}.{field}"] for field in group.fields}
    if not group.windowed:
        return [group.method(**fields)]
    window = settings.window(group.name)
    return [group.method(**fields, window=part) for part in ([window] if owner is group else _without(window, taken))]


def _without(window: Window, taken: Window) -> list[Window]:
    """What is left of ``window`` outside ``taken``."""
    parts = [(window[0], min(window[1], taken[0])), (max(window[0], taken[1]), window[1])]
    return [part for part in parts if part[0] < part[1]]
