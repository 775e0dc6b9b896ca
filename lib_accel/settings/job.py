"""The settings of one job: a flat table of values, presets filled in, and what each pass of the job runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..core.fields import SettingError
from ..core.schedule import Window
from .model_families import FAMILIES
from .presets import PRESETS, preset
from .schema import GROUPS, KNOBS, METHOD_GROUPS, WINDOWED_GROUPS, knob_named

CUSTOM = "custom"
# A preset of this beginning is a sentence about settings that could not be read (from PNG info, say).
REFUSED = "refused: "

# Preset name -> knob values of the user's own presets.
OwnPresets = Mapping[str, Mapping[str, Any]]

# What a preset fills. Own presets fill the rest, too, but token counts only where they have some: those are a machine's.
METHOD_KNOBS = tuple(name for name, knob in KNOBS.items() if knob.group in METHOD_GROUPS)
NOT_IN_PRESETS = ("enabled", "preset")
_OF_OWN_PRESETS = tuple(name for name, knob in KNOBS.items() if name not in NOT_IN_PRESETS and knob.group != "least")


class Settings(Mapping[str, Any]):
    """A value for every knob, checked. Built from some of them, by name; the others have their defaults. SettingError."""

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        self._values = {name: knob.default for name, knob in KNOBS.items()}
        for name, value in (given or {}).items():
            self._values[name] = knob_named(name).read(value)
        for group in WINDOWED_GROUPS:
            start, end = self.window(group)
            if self._uses(group) and start >= end:
                raise SettingError(f"{group}.start is {start:g} and {group}.end is {end:g}; the start must be before the end.")
        low, high = self["guidance.sigma_low"], self["guidance.sigma_high"]
        if self["guidance.on"] and self["guidance.when"] == "outside" and low >= high:
            raise SettingError(f"guidance.sigma_low is {low:g} and guidance.sigma_high is {high:g}; the first must be below the second.")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def _uses(self, group: str) -> bool:
        in_hires = group == "agents" and self["hires.profile"] == "own" and self["hires.agents"]
        return self[f"{group}.on"] or in_hires

    def window(self, group: str) -> Window:
        return (self[f"{group}.start"], self[f"{group}.end"])

    def replaced(self, changes: Mapping[str, Any]) -> Settings:
        return Settings({**self, **changes})

    def changed(self) -> dict[str, Any]:
        """The values that differ from the defaults, by name."""
        return {name: value for name, value in self.items() if value != KNOBS[name].default}


def preset_values(name: str, family: str, own: OwnPresets | None = None) -> dict[str, Any]:
    """What the preset ``name`` fills in for a model ``family``, by knob. SettingError when there is no such preset."""
    own = own or {}
    if name.lower() not in PRESETS:
        if name not in own:
            names = ", ".join([*PRESETS, CUSTOM, *own])
            raise SettingError(f"preset is {name[:80]!r}; it must be one of {names}.")
        return {**_defaults(_OF_OWN_PRESETS), **{k: v for k, v in own[name].items() if k not in NOT_IN_PRESETS}}
    values = _defaults(METHOD_KNOBS)
    for method in preset(name, family):
        group = next(g.name for g in GROUPS if g.described_by is type(method))
        values[f"{group}.on"] = True
        for field, value in vars(method).items():
            if field == "window":
                values[f"{group}.start"], values[f"{group}.end"] = value
            elif f"{group}.{field}" in KNOBS:
                values[f"{group}.{field}"] = value
    return values


def resolve(given: Mapping[str, Any], family: str, own: OwnPresets | None = None) -> Settings:
    """The settings that a job runs by: the preset's values for ``family``, and over them what was ``given`` by name. SettingError.

    A method knob that was given and differs from the preset makes it Custom. Setting one of a method's knobs switches the method on,
    setting one of the hires pass's makes its profile ``own``, unless the switch itself was given: nothing is set without effect.
    """
    given = {knob_named(name).name: KNOBS[name].read(value) for name, value in given.items()}
    name = given.pop("preset", KNOBS["preset"].default)
    if name.startswith(REFUSED):
        raise SettingError(name[len(REFUSED) :])
    name = name.lower() if name.lower() in (CUSTOM, *PRESETS) else name
    base = {} if name == CUSTOM else preset_values(name, family, own)
    given = {**implied(given), **given}
    if any(base.get(knob, value) != value for knob, value in given.items()):
        name = CUSTOM
    return Settings({**base, **given, "preset": name})


def without_untouched(given: Mapping[str, Any], own: OwnPresets | None = None) -> dict[str, Any]:
    """``given`` less the method knobs, when these are as some preset fills them: then nobody touched them, and the preset named decides.

    For forms that always send every knob: what they show was filled for the model that was loaded then, not for the one that runs.
    """
    name = str(given.get("preset", ""))
    if name.lower() == CUSTOM or any(knob not in given for knob in METHOD_KNOBS):
        return dict(given)
    shown = {knob: KNOBS[knob].read(given[knob]) for knob in METHOD_KNOBS}
    for filled in (*PRESETS, *(own or {})):
        for family in FAMILIES:
            values = preset_values(filled, family, own)
            if all(values[knob] == value for knob, value in shown.items()):
                return {knob: value for knob, value in given.items() if knob not in shown}
    return dict(given)


def matching_preset(settings: Settings, name: str, own: OwnPresets | None = None) -> str:
    """``name`` if that preset still means these method knobs for some family, else ``custom``: old pictures replay as they were."""
    known = name.lower() if name.lower() in PRESETS else name
    if known in PRESETS or known in (own or {}):
        for family in FAMILIES:
            values = preset_values(known, family, own)
            if all(settings[knob] == value for knob, value in values.items()):
                return known
    return CUSTOM


def _defaults(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: KNOBS[name].default for name in names}


def implied(given: Mapping[str, Any]) -> dict[str, Any]:
    """The switches without which settings ``given`` by name would have no effect, switched on; among them some that were given."""
    switches: dict[str, Any] = {}
    for name in given:
        group = KNOBS[name].group
        if group in METHOD_GROUPS:
            switches[f"{group}.on"] = True
        elif group == "hires":
            switches["hires.profile"] = "own"
        elif group == "least" and given[name]:
            switches["auto"] = True
    return switches
