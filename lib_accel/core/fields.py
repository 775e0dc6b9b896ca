"""Settings described once: a dataclass field carries its label, range, PNG-info name and hint, and everything else reads them there."""

from __future__ import annotations

import dataclasses
import math
from typing import Any


class SettingError(ValueError):
    """A bad value. Its sentence names the setting, the value and what is allowed."""


def setting(
    default: Any,
    kind: str,
    label: str,
    hint: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple | None = None,
    above_low: bool = False,
    optional: bool = False,
    step: float = 0.01,
) -> Any:
    """A dataclass field with its description.

    kind: ``number`` | ``integer`` | ``flag`` | ``choice`` | ``window`` | ``text``. low, high: inclusive bounds of numbers. choices:
    allowed values.
    above_low: ``low`` itself is not allowed. optional: None is allowed too.
    step: how finely a number is set with a slider.
    label: letters, digits, spaces, ``-`` and ``/`` (it is the name in PNG info, too). hint: one line, what higher or on means.
    """
    metadata = {
        "kind": kind,
        "label": label,
        "hint": hint,
        "low": low,
        "high": high,
        "choices": choices,
        "above_low": above_low,
        "optional": optional,
        "step": step,
    }
    return dataclasses.field(default=default, metadata=metadata)


def check(config: Any) -> None:
    """Validate every described field of the dataclass instance ``config``. SettingError on the first bad one."""
    for field in dataclasses.fields(config):
        if field.metadata:
            name = f"{type(config).__name__}.{field.name}"
            object.__setattr__(config, field.name, checked(name, getattr(config, field.name), field.metadata))


def checked(name: str, value: Any, rule: Any) -> Any:
    """``value`` in its normal form (numbers as float or int, windows as a pair of floats); SettingError when it breaks ``rule``."""
    if value is None and rule.get("optional"):
        return None
    return _RULES[rule["kind"]](name, plain(value), rule)


def plain(value: Any) -> Any:
    """NumPy's numbers, truth values and texts, alone or in a sequence, as Python's own."""
    if type(value).__module__ == "numpy":
        return value.tolist()
    if type(value) in (tuple, list) and any(type(one).__module__ == "numpy" for one in value):
        return type(value)(map(plain, value))
    return value


def _number(name: str, value: Any, rule: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value) or _outside(value, rule):
        raise SettingError(f"{name} is {value!r}; it must be a number {_range(rule)}.")
    return float(value)


def _integer(name: str, value: Any, rule: Any) -> int:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or _outside(value, rule):
        raise SettingError(f"{name} is {value!r}; it must be a whole number {_range(rule)}.")
    return int(value)


def _flag(name: str, value: Any, rule: Any) -> bool:
    if not isinstance(value, bool):
        raise SettingError(f"{name} is {value!r}; it must be True or False.")
    return value


def _choice(name: str, value: Any, rule: Any) -> Any:
    numbers = (int, float)
    for choice in () if isinstance(value, bool) else rule["choices"]:
        if value == choice and (type(value) is type(choice) or (type(value) in numbers and type(choice) in numbers)):
            return choice
    raise SettingError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, rule['choices']))}.")


def _window(name: str, value: Any, rule: Any) -> tuple[float, float]:
    bad = SettingError(f"{name} is {value!r}; it must be two fractions (start, end) of the pass with 0 <= start < end <= 1.")
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise bad
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) or not _is_finite(v) for v in value):
        raise bad
    if not 0 <= value[0] < value[1] <= 1:
        raise bad
    return (float(value[0]), float(value[1]))


def _text(name: str, value: Any, rule: Any) -> str:
    if not isinstance(value, str):
        raise SettingError(f"{name} is {value!r}; it must be a text.")
    return value


_RULES = {"number": _number, "integer": _integer, "flag": _flag, "choice": _choice, "window": _window, "text": _text}


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # An integer beyond every float.
        return False


def _outside(value: float, rule: Any) -> bool:
    low, high = rule["low"], rule["high"]
    return (low is not None and (value < low or (value == low and rule.get("above_low")))) or (high is not None and value > high)


def _range(rule: Any) -> str:
    low, high = rule["low"], rule["high"]
    words = "and finite"
    if low is not None and high is not None:
        words = f"above {low:g} and up to {high:g}" if rule.get("above_low") else f"from {low:g} to {high:g}"
    elif low is not None:
        words = f"above {low:g}" if rule.get("above_low") else f"of {low:g} or more"
    return words + (", or None" if rule.get("optional") else "")


def changed(config: Any) -> dict[str, Any]:
    """The fields of ``config`` that differ from their defaults, by name."""
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    return {name: value for name, value in described(config).items() if value != defaults[name]}


def described(config: Any) -> dict[str, Any]:
    """The described fields of ``config`` by name; what has no description (aligned prompts, tensors) is no setting."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.metadata}
