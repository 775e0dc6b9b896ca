"""When an edit acts: windows in fractions of the pass, for whole prompts and for single words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..core.fields import SettingError, plain
from ..core.schedule import Step, Window
from .tokens import PromptTokens

# What a mapping of words to windows calls all words that it does not name, as published.
DEFAULT = "default_"
# fraction: as every window of this library. published: as in the released code of Prompt-to-Prompt. noise: fractions of the noise level
# from 1, the beginning, as in CrossAttentionControl.
RULES = ("fraction", "published", "noise")

Windows = float | Window | Mapping[str, float | Window]


def window_of(name: str, value: Any) -> Window:
    """A window: the fraction b is (0, b), a pair (a, b) itself, and a = b never. SettingError with a sentence for anything else."""
    value = plain(value)
    pair = (0.0, value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    whole = (
        isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in pair)
    )
    if not whole or not 0 <= pair[0] <= pair[1] <= 1:
        raise SettingError(f"{name} is {value!r}; it must be a fraction from 0 to 1, or two (start, end) with 0 <= start <= end <= 1.")
    return (float(pair[0]), float(pair[1]))


def windows_of(name: str, value: Any) -> Window | dict[str, Window]:
    """A window, or windows by word with `DEFAULT` for the others (the whole pass without it)."""
    if not isinstance(value, Mapping):
        return window_of(name, value)
    return {word: window_of(f"{name}[{word!r}]", window) for word, window in value.items()}


def token_windows(tokens: PromptTokens, value: Any, name: str = "cross_replace", missing_ok: bool = False) -> torch.Tensor:
    """[positions, 2]: start and end for every token of an edited prompt. missing_ok: words that it lacks are passed over."""
    windows = windows_of(name, value)
    if not isinstance(windows, dict):
        return torch.tensor([windows], dtype=torch.float64).repeat(len(tokens.ids), 1)
    out = torch.tensor([windows.get(DEFAULT, (0.0, 1.0))], dtype=torch.float64).repeat(len(tokens.ids), 1)
    for word, window in windows.items():
        if word != DEFAULT and (not missing_ok or tokens.has(word)):
            out[tokens.find(word)] = torch.tensor(window, dtype=torch.float64)
    return out


def acts(window: Window, step: Step, rule: str = "fraction", cross: bool = True) -> bool:
    """Whether ``step`` lies in ``window`` by ``rule`` (`RULES`). cross: for cross-attention; published code counts one step more there."""
    start, end = window
    if rule == "fraction":
        return start < end and step.within(window)
    total = step.total or 1000
    index = step.index if step.total else int(step.fraction * total)
    if rule == "published":
        count = total + 1 if cross else total
        return int(start * count) <= index < int(end * count)
    noise = 0.999 * (1 - index / max(1, total - 1))
    return start <= noise <= end


def token_switch(windows: torch.Tensor, step: Step, rule: str = "fraction") -> torch.Tensor:
    """[positions]: 1 where source attention is taken at ``step``, 0 elsewhere."""
    rows = [tuple(row) for row in windows.tolist()]
    on = {row: float(acts(row, step, rule)) for row in set(rows)}
    return torch.tensor([on[row] for row in rows])
