"""The words of a variant's settings: ``key=value,key=value``."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from .errors import CommandError


def read_settings(text: str, settings: str, made: type) -> dict[str, Any]:
    """What ``settings``, a part of the variant ``text``, gives to the dataclass ``made``, by field. CommandError."""
    fields = [field.name for field in dataclasses.fields(made)]
    given = {}
    for pair in filter(None, settings.split(",")):
        key, equals, value = pair.partition("=")
        if key not in fields or not equals:
            raise CommandError(f"variant is {text!r}; {pair!r} must be key=value with a key among {', '.join(fields)}.")
        given[key] = read_value(value)
    return given


def read_value(text: str) -> Any:
    """A number, a window ``0.2-1``, true, false, none, or the word itself."""
    known = {"true": True, "false": False, "none": None}
    if text.lower() in known:
        return known[text.lower()]
    window = re.fullmatch(r"([\d.]+)-([\d.]+)", text)
    try:
        if window:
            return (float(window[1]), float(window[2]))
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    except ValueError:
        return text
