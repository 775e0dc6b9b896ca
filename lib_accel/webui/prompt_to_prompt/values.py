"""Windows, seeds and numbers as they are typed into the script's boxes."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

from ...core.fields import SettingError
from ...prompt_to_prompt import window_of, windows_of
from ...prompt_to_prompt.windows import DEFAULT
from .lines import NUMBER

_FRACTION = r"(?:\d+(?:\.\d*)?|\.\d+)"
_WINDOW = re.compile(rf"({_FRACTION})(?:\s*-\s*({_FRACTION}))?")
_BY_WORD = re.compile(rf"(.*?\S)\s*[:\s]\s*({_FRACTION}(?:\s*-\s*{_FRACTION})?)")
_SEEDS = re.compile(r"(\d+)\s*-\s*(\d+)")
# More is a slip of the finger.
MOST_SEEDS = 1000
# Generators take no larger one.
LARGEST_SEED = 2**64 - 1
HOW = "a part of the steps from 0 to 1, such as 0.4, or a range, such as 0.1-0.8"


def window(name: str, text: Any) -> float | tuple[float, float]:
    """``0.4`` or ``0.1-0.8``. SettingError."""
    found = _WINDOW.fullmatch(str(text).strip())
    if found is None:
        raise SettingError(f"{name} is {str(text)!r}; it must be {HOW}.")
    value = float(found[1]) if found[2] is None else (float(found[1]), float(found[2]))
    try:
        window_of(name, value)
    except SettingError:
        raise SettingError(f"{name} has {str(text).strip()!r}; it must be {HOW}.") from None
    return value


def windows(name: str, text: Any) -> Any:
    """A window, and behind ``;`` those of single words: ``0.8; lion 0.4; red car 0.1-0.6``. SettingError."""
    parts = [part.strip() for part in str(text).split(";") if part.strip()]
    if not parts:
        raise SettingError(f"{name} is {str(text)!r}; it must be {HOW}.")
    by_word: dict[str, Any] = {}
    for place, part in enumerate(parts):
        if _WINDOW.fullmatch(part) and place == 0:
            by_word[DEFAULT] = window(name, part)
            continue
        found = _BY_WORD.fullmatch(part)
        if found is None:
            raise SettingError(f"{name} has {part!r}; it must be {HOW}, and behind ; windows of words, as in 0.8; lion 0.4.")
        by_word[_word_of(part)] = window(name, found[2])
    value = by_word[DEFAULT] if list(by_word) == [DEFAULT] else by_word
    windows_of(name, value)
    return value


def windows_left(text: str, has: Callable[[str], bool]) -> str:
    """``text``, good windows as they are typed, without those of words that ``has`` does not know."""
    parts = [part.strip() for part in text.split(";") if part.strip()]
    known = [part for place, part in enumerate(parts) if (place == 0 and _WINDOW.fullmatch(part)) or has(_word_of(part))]
    # Without a number in front, words without a window have the whole pass.
    return "; ".join(known) or "1"


def _word_of(part: str) -> str:
    found = _BY_WORD.fullmatch(part)
    return found[1].rstrip(":").strip() if found else ""


def number(name: str, text: Any, low: float | None = None, high: float | None = None) -> float:
    """A number, within bounds if there are any. SettingError."""
    text = str(text).strip()
    value = float(text) if re.fullmatch(NUMBER, text) else None
    if value is None or (low is not None and value < low) or (high is not None and value > high) or value in (float("inf"), -float("inf")):
        bounds = f" from {low:g} to {high:g}" if low is not None else ""
        raise SettingError(f"{name} is {text!r}; it must be a number{bounds}.")
    return value


def seeds(name: str, text: str) -> list[int]:
    """``1, 5-8, -1``: seeds, ranges of them, and -1 for one by chance. SettingError."""
    found: list[int] = []
    for part in split(text):
        span = _SEEDS.fullmatch(part)
        first, last = (whole_number(one, LARGEST_SEED) for one in (span.groups() if span else (part, part)))
        if part == "-1":
            found.append(random.randrange(4294967294))
        elif first is None or last is None:
            raise SettingError(f"{name} has {part!r}; it must be whole numbers up to {LARGEST_SEED}, ranges such as 5-8, or -1.")
        elif not first <= last < first + MOST_SEEDS:
            raise SettingError(f"{name} has {part!r}; a range must go up and have at most {MOST_SEEDS} seeds.")
        else:
            found += range(first, last + 1)
    return found


def whole_number(text: str, most: int) -> int | None:
    """A number from 0 to ``most`` in digits; None for anything else. Python reads no number of thousands of digits."""
    value = int(text) if text.isdecimal() and len(text) <= 100 else None
    return value if value is not None and value <= most else None


def words(text: Any) -> tuple[str, ...]:
    """Words or phrases with commas between them."""
    return tuple(split(text))


def blend_words(name: str, text: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``squirrel : lion, fox``: words of the source, and behind the colon those of the edited prompts. SettingError."""
    sides = str(text).split(":")
    if len(sides) > 2:
        raise SettingError(f"{name} is {str(text)!r}; one colon at most: words of the source : words of the edits.")
    source, edited = words(sides[0]), words(sides[1]) if len(sides) > 1 else ()
    if edited and not source:
        raise SettingError(f"{name} is {str(text)!r}; words of the source must stand before the colon.")
    return source, edited


def blend_words_left(text: str, has: Callable[[str], bool]) -> str:
    """``text``, good blend words as they are typed, without those of the edited prompts that ``has`` does not know."""
    source, colon, edited = text.partition(":")
    left = ", ".join(filter(has, words(edited)))
    return f"{source.strip()} : {left}" if colon and left else source.strip()


def split(text: Any) -> list[str]:
    """The parts between commas, without empty ones."""
    return [part.strip() for part in str(text).split(",") if part.strip()]
