"""The settings of one job: a flat table of values, presets filled in, and what each pass of the job runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..core.fields import SettingError
from ..core.schedule import Window
from ..engine.thresholds import Thresholds
from ..methods.registry import with_least
from .model_families import FAMILIES
from .presets import PRESETS, preset
from .schema import GROUPS, KNOBS, METHOD_GROUPS, Group, knob_named

CUSTOM = "custom"

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
        for group in GROUPS:
            if group.method:
                self._check(group, self)
                self._check(group, {**self, **self.in_hires(group)})

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def _check(self, group: Group, values: Mapping[str, Any]) -> None:
        name = group.name
        if not values[f"{name}.on"]:
            return
        if group.windowed and values[f"{name}.start"] >= values[f"{name}.end"]:
            start, end = values[f"{name}.start"], values[f"{name}.end"]
            raise SettingError(f"{name}.start is {start:g} and {name}.end is {end:g}; the start must be before the end.")
        wrong = group.method.disagreement({field: values[f"{name}.{field}"] for field in group.fields}, f"{name}.")
        if wrong:
            raise SettingError(wrong)

    def in_hires(self, group: Group) -> dict[str, Any]:
        """What the hires pass's own profile changes of a method's settings, by name; nothing where it has none."""
        own = group.method.declaration.hires
        if own is None or self["hires.profile"] != "own":
            return {}
        return {f"{group.name}.{field}": value for field, value in own.means(self[f"hires.{own.name}"]).items()}

    def window(self, group: str) -> Window:
        return (self[f"{group}.start"], self[f"{group}.end"])

    def replaced(self, changes: Mapping[str, Any]) -> Settings:
        return Settings({**self, **changes})

    def changed(self) -> dict[str, Any]:
        """The values that differ from the defaults, by name."""
        return {name: value for name, value in self.items() if value != KNOBS[name].default}


def on_this_machine(settings: Settings, table: Callable[[], tuple[Thresholds, str | None]]) -> tuple[Settings, str | None]:
    """``settings`` with the token counts of this machine's ``table`` where they name none, and what is to be told about that table.

    Only of methods that are on: the others would stand in PNG info without a meaning.
    """
    unsaid = {
        group: method.__name__ for group, method in with_least().items() if settings[f"{group}.on"] and not settings[f"least.{group}"]
    }
    if not settings["auto"] or not unsaid:
        return settings, None
    found, complaint = table()
    return settings.replaced({f"least.{group}": found.least.get(name, 0) for group, name in unsaid.items()}), complaint


def thresholds_of(settings: Settings) -> Thresholds | bool:
    """What `Accelerator` takes as ``auto``, by ``settings``."""
    if not settings["auto"]:
        return False
    return Thresholds({method.__name__: settings[f"least.{group}"] for group, method in with_least().items()}, "as in PNG info")


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
        group = method.declaration.group
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
