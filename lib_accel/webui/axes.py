"""Axes of the X/Y/Z plot: one per setting, made from the same table as everything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import modules.scripts as scripts

from ..settings.infotext import shown_preset
from ..settings.job import CUSTOM
from ..settings.presets import PRESETS
from ..settings.schema import KNOBS, Knob
from .accordion import user_presets
from .jobs import job

PREFIX = "[Accel] "


def add() -> None:
    """Add our axes to the host's plot script, if there is one and it has none of them yet."""
    module = next((data.module for data in scripts.scripts_data if Path(data.path).name == "xyz_grid.py"), None)
    if not hasattr(module, "axis_options"):
        return
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
    kind = {"number": float, "integer": int}.get(knob.kind, str)
    return module.AxisOption(label_of(knob), kind, _apply(knob), confirm=_confirm(knob), **more)


def preset_names() -> list[str]:
    """The presets that can be chosen, Custom left out: it names no values."""
    return [shown_preset(name) for name in PRESETS] + list(user_presets.read()[0])


def _apply(knob: Knob) -> Callable[[Any, Any, Any], None]:
    def apply(p: Any, x: Any, xs: Any) -> None:
        # A new dictionary: cells are shallow copies of one job.
        setattr(p, job.AXES, {**(getattr(p, job.AXES, None) or {}), knob.name: x})

    return apply


def _confirm(knob: Knob) -> Callable[[Any, Any], None]:
    def confirm(p: Any, xs: Any) -> None:
        names = [*PRESETS, CUSTOM]
        for x in xs:
            value = knob.read(x)
            if knob.kind == "name" and value.lower() not in names and value not in user_presets.read()[0]:
                raise RuntimeError(f"{label_of(knob)}: {value[:80]!r} is none of {', '.join(preset_names())}.")

    return confirm
