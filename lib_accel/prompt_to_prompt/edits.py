"""Edits as people describe them, and what they come to: how an edited row's attention is made from its source's.

Everything here is linear in the attention maps (Hertz et al., arXiv 2208.01626): with maps P over text tokens, an edit is
P_new = P_source A + P_edit D with a matrix A and a diagonal D that depend on prompts and step alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..core.fields import SettingError, plain
from ..core.schedule import Step
from . import published
from .alignment import Alignment, refinement, replacement, same_tokens
from .tokens import PromptTokens, equally_long
from .windows import token_switch, token_windows, window_of, windows_of

# By word or phrase, or the number of the word from 0.
Weights = Mapping[str | int, float]
KINDS = ("auto", "replace", "refine", "reweight")
# Of a weight, either way. Published pictures go to 8; far more is beyond half precision.
MOST_WEIGHT = 1000


@dataclass(frozen=True)
class Edit:
    """One edited picture. SettingError, with a sentence, when a value cannot be.

    prompt: the edited prompt; None: the source's. kind: ``replace`` | ``refine`` | ``reweight`` | ``auto`` (re-weight for the same words,
    replace for as many, else refine). weights: factors of the attention to words of the edited prompt, -1000 to 1000; 1 changes
    nothing, negative ones push away. cross_replace, self_replace: windows of this picture, None: the job's; see `edit_images`.
    """

    prompt: str | None = None
    kind: str = "auto"
    weights: Weights = field(default_factory=dict)
    cross_replace: Any = None
    self_replace: Any = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingError(f"edit is {self.kind!r}; it must be one of {', '.join(map(repr, KINDS))}.")
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise SettingError(f"Edit.prompt is {self.prompt!r}; it must be a text, or None for the source's.")
        if not isinstance(self.weights, Mapping):
            raise SettingError(f"Edit.weights is {self.weights!r}; it must map words to numbers.")
        object.__setattr__(self, "weights", {word: plain(weight) for word, weight in self.weights.items()})
        for word, weight in self.weights.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not -MOST_WEIGHT <= weight <= MOST_WEIGHT:
                raise SettingError(f"weight of {word!r} is {weight!r}; it must be a number from -{MOST_WEIGHT} to {MOST_WEIGHT}.")
        if self.cross_replace is not None:
            windows_of("cross_replace", self.cross_replace)
        if self.self_replace is not None:
            window_of("self_replace", self.self_replace)

    def then(self, other: Edit) -> Edit:
        """This edit with the weights of ``other`` (a `Reweight`) on top; a word weighted twice gets the product."""
        if other.prompt is not None:
            raise SettingError(f"edits are chained with {other.prompt!r}; only a Reweight can follow another edit.")
        both = dict(self.weights)
        for word, weight in other.weights.items():
            both[word] = both.get(word, 1.0) * weight
        return replace(self, weights=both)


def Replace(prompt: str, weights: Weights | None = None, **windows: Any) -> Edit:  # noqa: N802 - reads as a kind of Edit
    """Words are swapped: ``prompt`` has as many words as the source. windows: as in `Edit`."""
    return Edit(prompt, "replace", weights or {}, **windows)


def Refine(prompt: str, weights: Weights | None = None, **windows: Any) -> Edit:  # noqa: N802
    """Words are added, left out or swapped: what both prompts share keeps its place."""
    return Edit(prompt, "refine", weights or {}, **windows)


def Reweight(weights: Weights, **windows: Any) -> Edit:  # noqa: N802
    """The same prompt with other weights on some words; `Edit.then` puts them on top of another edit."""
    return Edit(None, "reweight", weights, **windows)


def as_edit(value: Any) -> Edit:
    """An `Edit`, or a prompt for an edit of kind ``auto``."""
    if isinstance(value, Edit):
        return value
    if isinstance(value, str):
        return Edit(value)
    raise SettingError(f"edit is {value!r}; it must be a prompt or an Edit (Replace, Refine, Reweight).")


@dataclass(frozen=True, eq=False)
class Mixing:
    """An aligned edit of one prompt (of one AND part).

    take: [source tokens, target tokens], what A is inside the windows. keep: [target tokens], what D is inside; outside: what it is
    outside. windows: [target tokens, 2] fractions.
    """

    take: torch.Tensor
    keep: torch.Tensor
    outside: torch.Tensor
    windows: torch.Tensor

    def at(self, step: Step, rule: str = "fraction") -> tuple[torch.Tensor, torch.Tensor] | None:
        """(A [source tokens, target tokens], D [target tokens]) at ``step``; None where nothing is edited. rule: see `windows.RULES`."""
        on = token_switch(self.windows, step, rule).to(self.take)
        take, keep = self.take * on, self.keep * on + self.outside * (1 - on)
        if not take.any() and bool((keep == 1).all()):
            return None
        return take, keep

    def edits_at(self, step: Step, rule: str = "fraction") -> bool:
        """Whether `at` has anything for ``step``."""
        return self.at(step, rule) is not None

    def fitted(self, tokens: int) -> Mixing | None:
        """For texts of ``tokens`` positions, which a host may have padded behind what was aligned; None when they are fewer."""
        more = tokens - len(self.keep)
        if more == 0:
            return self
        if more < 0 or self.take.shape[0] != len(self.keep):
            return None
        take = torch.block_diag(self.take, torch.zeros(more, more, dtype=self.take.dtype))
        ones, never = torch.ones(more, dtype=self.take.dtype), torch.zeros(more, 2, dtype=self.windows.dtype)
        return Mixing(take, torch.cat([self.keep, ones]), torch.cat([self.outside, ones]), torch.cat([self.windows, never]))


def mix(
    source: PromptTokens, target: PromptTokens, edit: Edit, cross_replace: Any = 0.8, variant: str = "accel", missing_ok: bool = False
) -> Mixing:
    """``edit`` aligned: how rows of ``target`` take from rows of ``source``. Both streams come out with as many chunks as the longer.

    edit: its kind and weights (words of ``target``); its prompt is not read. cross_replace: windows where the edit has none of its own.
    variant: ``accel``, ``published`` (the released rules of Prompt-to-Prompt) or ``bloc97`` (CrossAttentionControl: SequenceMatcher
    alignment, weights also outside the windows). missing_ok: words of ``cross_replace`` that this prompt lacks are passed over.
    SettingError, WordError.
    """
    alignment = _aligned(source, target, edit, variant)
    target = target.padded(alignment.found.numel() // target.chunk)
    weights = equalizer(target, edit.weights)
    own = edit.cross_replace is not None
    windows = token_windows(target, edit.cross_replace if own else cross_replace, missing_ok=missing_ok and not own)
    outside = weights if variant == "bloc97" else torch.ones_like(weights)
    return Mixing(alignment.matrix * alignment.found * weights, (1 - alignment.found) * weights, outside, windows)


def equalizer(target: PromptTokens, weights: Weights) -> torch.Tensor:
    """[positions]: the factor of every token's attention."""
    out = torch.ones(len(target.ids))
    for word, weight in weights.items():
        out[target.find(word)] *= weight
    return out


def kind_of(source: PromptTokens, target: PromptTokens, edit: Edit) -> str:
    """The kind of ``edit``, with ``auto`` decided."""
    if edit.kind != "auto":
        return edit.kind
    if _same(source, target):
        return "reweight"
    return "replace" if len(source.words) == len(target.words) else "refine"


def _aligned(source: PromptTokens, target: PromptTokens, edit: Edit, variant: str) -> Alignment:
    kind = kind_of(source, target, edit)
    if variant == "bloc97":
        return published.sequence_match(source, target)
    if kind == "reweight":
        # The released code weighs by position, whatever stands there.
        if variant == "accel" and not _same(source, target):
            raise SettingError(
                f"edit is 'reweight', and {target.text!r} has other words than {source.text!r}; they must be the same (or edit='auto')."
            )
        return same_tokens(source, target)
    rules = {"accel": (replacement, refinement), "published": (published.replacement, published.refinement)}
    if variant not in rules:
        raise SettingError(f"variant is {variant!r}; it must be one of 'accel', 'published', 'bloc97'.")
    return rules[variant][kind == "refine"](source, target)


def _same(source: PromptTokens, target: PromptTokens) -> bool:
    """Whether the text encoder gets the same from both: the same words with another comma are not the same tokens at the same places."""
    ours, theirs = equally_long((source, target))
    return ours.ids == theirs.ids
