"""Every setting of a job as one flat table, derived from the dataclasses that describe the settings.

A knob's name is ``<group>.<field>`` (``agents.ratio``), or the field alone for settings of the whole job (``preset``). Windows become two
knobs, ``start`` and ``end``. The user interface, PNG info, the API, the X/Y/Z plot and presets are all made from this table.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.fields import SettingError, checked, setting
from ..core.method import Method, is_windowed
from ..methods.registry import METHODS, PLACED


@dataclass(frozen=True)
class JobFields:
    """Settings of the whole job."""

    enabled: bool = setting(False, "flag", "Accel", "on: faster pictures, slightly different ones")
    preset: str = setting("balanced", "name", "Preset", "sets all methods; changing one of their settings makes it Custom")
    first_pass: bool = setting(True, "flag", "First pass", "off: only the hires pass is faster; the composition stays")
    auto: bool = setting(True, "flag", "Only where it pays", "off: methods also act at small sizes, where they save little and change much")
    drop_at_one: bool = setting(
        True, "flag", "No negative prompt at CFG scale 1", "on: half the work at CFG scale 1 (LCM, Turbo, Lightning); same picture"
    )


PROFILE = setting(
    "same", "choice", "Profile", "same: as the first pass; off: not accelerated; own: the settings below", choices=("same", "off", "own")
)


@dataclass(frozen=True)
class Group:
    """Settings that belong together. described: the dataclass fields that describe them, by name. method: whose they are, None for those
    of the job. Those of a method have a switch before them, ``on``, and ``start`` and ``end`` in place of a window."""

    name: str
    title: str
    hint: str
    described: Mapping[str, Any]
    method: type[Method] | None = None

    @property
    def windowed(self) -> bool:
        """Whether the method acts in a part of the pass that is set."""
        return self.method is not None and is_windowed(self.method)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are settings of a job, the window left out."""
        return tuple(name for name in self.described if name != "window")


def _fields_of(described_by: type, only: tuple[str, ...] | None = None) -> dict[str, Any]:
    fields = {field.name: field for field in dataclasses.fields(described_by)}
    return {name: field for name, field in fields.items() if only is None or name in only or name == "window"}


def _groups_of(methods: list[type[Method]], profile: Mapping[str, Any]) -> list[Group]:
    """The groups of ``methods``, of the hires pass and of the least token counts. profile: what the hires pass has before theirs."""
    declared = [method.declaration for method in methods]
    groups = [Group(d.group, d.title, d.hint, _fields_of(method, d.settings), method) for method, d in zip(methods, declared) if d.group]
    hires = {**profile, **{d.hires.name: d.hires.field for d in declared if d.hires}}
    least = {
        d.group: setting(0, "integer", f"{d.title} from", f"{d.least_hint} from this many tokens on; 0: by this machine's table", 0)
        for d in declared
        if d.least
    }
    # From how many tokens on a method acts; 0: by this machine's table. PNG info keeps what the table said.
    more = [Group("hires", "Hires pass", "", hires), Group("least", "Least tokens", "", least)]
    return [*groups, *(group for group in more if group.described)]


_FIRST_GROUPS = (Group("", "", "", _fields_of(JobFields)), *_groups_of(METHODS[:PLACED], {"profile": PROFILE}))
# Each with what the hires pass and the token counts have of it behind it, so that none moves another.
_LATER_GROUPS = tuple(group for method in METHODS[PLACED:] for group in _groups_of([method], {}))
GROUPS = (*_FIRST_GROUPS, *_LATER_GROUPS)
METHOD_GROUPS = tuple(group.name for group in GROUPS if group.method)
WINDOWED_GROUPS = tuple(group.name for group in GROUPS if group.windowed)

_FLAGS = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}
# What None is called where only words can be shown.
_NONE = "model's"


@dataclass(frozen=True)
class Knob:
    """One setting of a job. rule: what `fields.checked` checks values by. rare: whether it is rarely changed."""

    name: str
    group: str
    label: str
    hint: str
    default: Any
    rule: Mapping[str, Any]
    rare: bool = False

    @property
    def kind(self) -> str:
        return self.rule["kind"]

    @property
    def short(self) -> str:
        """Its label where its group is named above."""
        head, colon, tail = self.label.partition(": ")
        return tail[0].upper() + tail[1:] if colon else head

    @property
    def infotext(self) -> str:
        """Its key in PNG info: letters, digits, spaces and hyphens."""
        return "Accel " + self.label.replace(":", "").lower()

    @property
    def texts(self) -> tuple[str, ...] | None:
        """The choices in words, in order; None for other kinds."""
        return tuple(map(self.text, self.rule["choices"])) if self.kind == "choice" else None

    def text(self, value: Any) -> str:
        """``value`` in words that `read` understands."""
        if value is None:
            return _NONE
        if isinstance(value, float):
            return f"{value:g}" if float(f"{value:g}") == value else repr(value)
        return str(value)

    def read(self, given: Any) -> Any:
        """``given`` (a value, or one in words) in its normal form. SettingError naming the knob, the value and what is allowed."""
        value = given
        if isinstance(given, str):
            value = self._from_words(given.strip())
        elif self.kind == "choice":
            value = next((c for c in self.rule["choices"] if _same_number(c, given)), given)
        elif self.kind == "flag" and type(given) in (int, float) and given in (0, 1):
            value = bool(given)
        try:
            if self.kind == "name":
                return _checked_name(self.name, value)
            return checked(self.name, value, self.rule)
        except (ValueError, RecursionError):
            raise SettingError(f"{self.name} is {_shown(given)}; it must be {self.allowed()}.") from None

    def allowed(self) -> str:
        """What values it takes, in words."""
        low, high = self.rule.get("low"), self.rule.get("high")
        if self.kind == "flag":
            return "true or false"
        if self.kind == "choice":
            return "one of " + ", ".join(self.texts)
        if self.kind == "name":
            return "the name of a preset"
        noun = "a whole number" if self.kind == "integer" else "a number"
        return f"{noun} of {low:g} or more" if high is None else f"{noun} from {low:g} to {high:g}"

    def _from_words(self, words: str) -> Any:
        if self.kind == "flag":
            return _FLAGS.get(words.lower(), words)
        if self.kind == "choice":
            return next((c for c in self.rule["choices"] if self.text(c).lower() == words.lower()), words)
        if self.kind in ("number", "integer") and len(words) <= 40:
            try:
                # Whole numbers as they are: a float has 53 bits.
                return int(words) if self.kind == "integer" and words.isdecimal() else float(words)
            except ValueError:
                return words
        return words


def _shown(given: Any) -> str:
    try:
        text = repr(given)
    except (ValueError, RecursionError):  # Numbers of thousands of digits; lists nested as deeply.
        return f"of a kind that cannot be shown ({type(given).__name__})"
    return text if len(text) <= 80 else text[:77] + "..."


def _same_number(choice: Any, given: Any) -> bool:
    numbers = (int, float)
    return type(choice) in numbers and type(given) in numbers and choice == given


def _checked_name(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > 400:
        raise SettingError(name)
    return value


def _knobs_of(group: Group) -> list[Knob]:
    def knob(field: str, label: str, hint: str, default: Any, rule: Mapping[str, Any]) -> Knob:
        name = f"{group.name}.{field}" if group.name else field
        if group.name and label != group.title:
            label = label.removeprefix(group.title + " ")
            label = f"{group.title}: {label[0].lower()}{label[1:]}"
        rule = {**rule, "optional": False}
        if rule.get("above_low"):
            # The least that a slider can be set to.
            rule |= {"low": rule["step"], "above_low": False}
        rare = group.method is not None and field in group.method.declaration.rare
        return Knob(name, group.name, label, hint, default, rule, rare)

    knobs = []
    if group.method:
        knobs.append(knob("on", group.title, group.hint, False, {"kind": "flag"}))
    for name, field in group.described.items():
        rule = field.metadata
        if rule["kind"] != "window":
            knobs.append(knob(name, rule["label"], rule["hint"], field.default, rule))
            continue
        fraction = {"kind": "number", "low": 0, "high": 1}
        knobs.append(knob("start", "Start", "fraction of the steps after which it begins", field.default[0], fraction))
        knobs.append(knob("end", "End", "fraction of the steps after which it ends", field.default[1], fraction))
    return knobs


def _knobs(groups: tuple[Group, ...], late: bool) -> list[Knob]:
    def is_late(group: Group, knob: Knob) -> bool:
        return group.method is not None and knob.name.partition(".")[2] in group.method.declaration.late

    return [knob for group in groups for knob in _knobs_of(group) if is_late(group, knob) is late]


# In the order in which settings are given by position: those of version 0.1.0, then what its methods got later, then later methods, each
# with what it got later.
KNOBS: dict[str, Knob] = {
    knob.name: knob
    for groups in (_FIRST_GROUPS, *((group,) for group in _LATER_GROUPS))
    for late in (False, True)
    for knob in _knobs(groups, late)
}


_NAMED = re.compile(rf"(^|(?<= and ))({'|'.join(sorted(map(re.escape, KNOBS), key=len, reverse=True))})(?= is )")


def by_label(sentence: str) -> str:
    """What `Knob.read` and `settings.job` say is wrong, with the settings called as the page calls them."""
    return _NAMED.sub(lambda found: KNOBS[found[2]].label, sentence)


def knob_named(name: Any) -> Knob:
    """The knob called ``name``. SettingError when there is none."""
    knob = KNOBS.get(name) if isinstance(name, str) else None
    if knob is None:
        raise SettingError(f"{_shown(name)} is no setting of Accel; see /accel/v1/schema for their names.")
    return knob
