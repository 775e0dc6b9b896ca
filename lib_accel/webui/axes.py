"""Axes of the X/Y/Z plot: one per setting, made from the same table as everything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import modules.scripts as scripts

from ..core.fields import SettingError
from ..settings.infotext import shown_preset
from ..settings.job import CUSTOM
from ..settings.presets import PRESETS
from ..settings.schema import KNOBS, Knob
from .accordion import user_presets
from .jobs import job, plots

PREFIX = "[Accel] "
# By what the host reads ranges of fractions.
READS_RANGES = ("csv_string_to_list_strip", "re_range_float", "re_range_count_float")
# Of a range; the host may have its own opinion of more.
MOST_VALUES = 1000


def add() -> None:
    """Add our axes to the host's plot script, if there is one and it has none of them yet."""
    module = next((data.module for data in scripts.scripts_data if Path(data.path).name == "xyz_grid.py"), None)
    if not hasattr(module, "axis_options"):
        return
    if hasattr(module, "Script"):
        plots.watch(module.Script)
    known = {option.label for option in module.axis_options}
    module.axis_options.extend(option for option in (_axis(module, knob) for knob in KNOBS.values()) if option.label not in known)


def label_of(knob: Knob) -> str:
    return PREFIX + ("On" if knob.name == "enabled" else knob.label)


def _axis(module: Any, knob: Knob) -> Any:
    more: dict[str, Any] = {}
    if knob.kind == "name":
        more["choices"] = preset_names
    elif knob.kind == "flag":
        more["choices"] = lambda: ["True", "False"]
    elif knob.kind == "choice":
        more["choices"] = lambda: list(knob.texts)
    # Not bool: the host would take the word "False" for true.
    kind = _Numbers(knob) if knob.kind in ("number", "integer") else str
    option = module.AxisOption(label_of(knob), kind, _apply(knob), confirm=_confirm(knob), **more)
    if knob.kind == "number" and hasattr(option, "prepare") and all(hasattr(module, name) for name in READS_RANGES):
        option.prepare = partial(_values_of, module)
    return option


def _values_of(module: Any, text: str) -> list[str]:
    """The values that somebody typed, with ranges of fractions written out. The host's own ranges may go one step past their end, out of
    a setting's bounds (0.5-1 (+0.1) ends with 1.0999999999999999), and PNG info would keep such digits."""
    values: list[str] = []
    for part in module.csv_string_to_list_strip(text):
        values += _fractions(module, part) or [part]
    return values


def _fractions(module: Any, part: str) -> list[str]:
    """Those of a range; none where it is no range, or one that the host has to judge."""
    by_step, by_count = module.re_range_float.fullmatch(part), module.re_range_count_float.fullmatch(part)
    try:
        if by_step:
            start, end, step = (float(given) for given in by_step.groups("1"))
            count = math.floor((end - start) / step + 1e-6) + 1
        elif by_count:
            start, end, count = float(by_count[1]), float(by_count[2]), int(by_count[3])
            step = (end - start) / (count - 1)
        else:
            return []
    except (ValueError, ZeroDivisionError, OverflowError):
        return []
    # No exponents: the host takes 1e-05 for a range.
    return [f"{start + at * step:.9f}".rstrip("0").rstrip(".") for at in range(count)] if 0 < count <= MOST_VALUES else []


class _Numbers:
    """What makes a number of a text, with a sentence where it is none. For the host it is ``float`` or ``int``, whose ranges
    (``1-5``, ``0.1-0.5 (+0.1)``) it knows."""

    def __init__(self, knob: Knob) -> None:
        self._knob, self._kind = knob, float if knob.kind == "number" else int

    def __eq__(self, other: object) -> bool:
        return other is self or other is self._kind

    def __hash__(self) -> int:
        return hash(self._kind)

    def __call__(self, text: Any) -> Any:
        try:
            return self._kind(text)
        except (ValueError, OverflowError):
            raise RuntimeError(f"{label_of(self._knob)} is {str(text)[:80]!r}; it must be {self._knob.allowed()}.") from None


def preset_names() -> list[str]:
    """The presets that can be chosen, Custom left out: it names no values. Off first: what the others are compared with."""
    return [job.OFF.title()] + [shown_preset(name) for name in PRESETS] + list(user_presets.read()[0])


def _apply(knob: Knob) -> Callable[[Any, Any, Any], None]:
    def apply(p: Any, x: Any, xs: Any) -> None:
        # A new dictionary: cells are shallow copies of one job.
        setattr(p, job.AXES, {**(getattr(p, job.AXES, None) or {}), knob.name: x})

    return apply


def _confirm(knob: Knob) -> Callable[[Any, Any], None]:
    def confirm(p: Any, xs: Any) -> None:
        own = user_presets.read()[0]
        for x in xs:
            if knob.name == "preset" and job.is_off(x):
                continue
            try:
                value = knob.read(x)
            except SettingError as error:
                # By the name that people chose on the page.
                raise RuntimeError(f"{label_of(knob)}{str(error).removeprefix(knob.name)}") from None
            if knob.kind == "name" and value.lower() not in (*PRESETS, CUSTOM) and value not in own:
                raise RuntimeError(f"{label_of(knob)} is {value[:80]!r}; it must be one of {', '.join(preset_names())}.")

    return confirm
