"""The words of each edited prompt as chips: which keep the source's attention, which take a source word's place, which are new.

Only tokenizers run: nothing is loaded and nothing encoded. Everything that somebody typed is escaped.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import Any

from ...core.fields import SettingError
from ...prompt_to_prompt import Edit, Mixing, PromptTokens, blankless, kind_of, mix, split_words, tokenize
from ..host import facts
from . import controls, host_text
from .checking import check_model, checked_form, of_line, prompt_of
from .controls import FormValues
from .lines import Line, parse_lines

MOST_LINES = 40
# More pictures than that are probably not meant.
MANY = 64
_WRONG = "accel-wrong"


def show(told: Any, *values: Any) -> str:
    """HTML for what is in the boxes, as it stands: an unfinished line is told what it lacks, and so is every other box; then how much
    will be drawn. told: the prompt, or JSON of ``prompt``, ``seeds`` (batch count times size) and ``styles``, the names of those that are
    chosen. values: in the order of `CONTROLS`.
    """
    prompt, seeds, styles = _read(told)
    source = host_text.without_comments(prompt)
    try:
        if (unet := facts.loaded_unet()) is not None:
            check_model(unet)
        settings = controls.read(values)
        lines = parse_lines(settings["edits"])
        if not lines:
            return _starting(source)
        stream = partial(_stream, styles=styles)
        stream(source)
    except SettingError as error:
        return _complaint(error)
    more = f'<div class="accel-edit">… {len(lines) - MOST_LINES}</div>' if len(lines) > MOST_LINES else ""
    shown = [_of_line(line, source, settings["kind"], stream) for line in lines[:MOST_LINES]]
    return "".join(shown) + more + ("" if any(_WRONG in html for html in shown) else _of_form(settings, lines, prompt, seeds, styles))


def _read(told: Any) -> tuple[str, int, list[str]]:
    """(prompt, seeds, styles) as the browser tells them."""
    try:
        given = json.loads(str(told or ""))
        return str(given["prompt"] or ""), max(1, int(given.get("seeds") or 1)), list(map(str, given.get("styles") or ()))
    except (ValueError, TypeError, KeyError, RecursionError):
        return str(told or ""), 1, []


def _starting(source: str) -> str:
    """Where nothing is written yet: the prompt's words, and other beginnings, each of which a click writes into the box."""
    try:
        stream = _stream(source)
    except SettingError:
        return ""
    words = [word for number, word in enumerate(stream.pieces) if stream.of_piece(number) and any(c.isalnum() for c in word)]
    if not words:
        return ""
    chips = "".join(_beginning(f"{word} -> ", _own(word)) for word in dict.fromkeys(words))
    others = (("+ ", "add words"), (f"{words[-1]}*1.5", "weight a word"), (f"= {' '.join(source.splitlines())}", "rewrite the prompt"))
    more = "".join(_beginning(text, f"<span>{label}</span>") for text, label in others)
    return (
        f'<div class="accel-edit"><span>Click on a word to replace it:</span> {chips}</div>'
        f'<div class="accel-edit"><span>or begin with:</span> {more}</div>'
    )


def _beginning(text: str, shown: str) -> str:
    return f'<button type="button" class="accel-chip accel-begins" data-accel-edit="{escape(text)}">{shown}</button>'


def _of_form(settings: FormValues, lines: list[Line], prompt: str, seeds: int, styles: list[str]) -> str:
    """What else is wrong, or how much will be drawn."""
    try:
        _, plan = checked_form(settings, lines, prompt, seeds, partial(_stream, styles=styles), styles)
    except SettingError as error:
        return _complaint(error)
    count, sources, batches = len(plan.cells()), len({cell.seed for cell in plan.cells()}), len(plan.batches(settings["at_once"]))
    drawn = ", ".join((_count(count, "edited picture"), _count(sources, "source"), _count(batches, "batch", "batches")))
    many = f'; <b class="{_WRONG}">a lot for one grid</b>' if count > MANY else ""
    return f'<div class="accel-edit accel-plan"><span>Generate draws</span> {drawn}{many}</div>'


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} <span>{one if number == 1 else many or one + 's'}</span>"


def _of_line(line: Line, source: str, kind: str, stream: Callable[[str], PromptTokens]) -> str:
    def aligned() -> tuple[PromptTokens, PromptTokens, Mixing, str]:
        ours, theirs = (stream(text) for text in (source, prompt_of(line, source)))
        edit = Edit(None, kind, line.weights)
        for word in line.weights:
            theirs.find(word)
        # Without the weights: one of 0 would hide where a word comes from.
        return ours, theirs, mix(ours, theirs, Edit(None, kind), 1.0), kind_of(ours, theirs, edit)

    try:
        ours, theirs, mixing, name = of_line(line, aligned)
    except SettingError as error:
        return _complaint(error)
    chips = "".join(_chip(number, ours, theirs, mixing, line) for number in range(len(theirs.pieces)))
    gone = "".join(f'<del class="accel-gone">{_own(word)}</del>' for word in _gone(ours, theirs, mixing))
    tokens = len(theirs.content)
    chunks = f", {theirs.chunks} chunks" if theirs.chunks > 1 else ""
    return f'<div class="accel-edit"><b>{name}</b> {chips}{gone}<small>{tokens} tokens{chunks}</small></div>'


def _stream(prompt: str, styles: Sequence[str] = ()) -> PromptTokens:
    styled = host_text.as_drawn(prompt, styles)
    refusal = host_text.refused(styled)
    if refusal:
        raise SettingError(f"{refusal[0].upper()}{refusal[1:]}.")
    text = host_text.without_tags(styled)
    model = facts.loaded_model()
    if model is not None:
        return host_text.tokens_of(model, text)
    # No checkpoint yet: words stand for tokens, and letters in scripts without blanks.
    spelled: dict[int, str] = {}

    def encode(words: str) -> list[int]:
        units = [unit for word in split_words(words) for unit in blankless.units(word)]
        tokens = [zlib.crc32(unit.casefold().encode()) for unit in units]
        spelled.update(zip(tokens, (unit.lower().encode().decode("latin-1") for unit in units)))
        return tokens

    return tokenize(text, encode, (-1, -2, -3), spell=spelled.get)


def _chip(number: int, ours: PromptTokens, theirs: PromptTokens, mixing: Mixing, line: Line) -> str:
    """A word of the edited prompt."""
    word, positions = theirs.pieces[number], theirs.of_piece(number)
    if not positions:
        return ""
    partners = _partners(ours, mixing, positions)
    weights = [weight for phrase, weight in line.weights.items() if set(positions) & set(theirs.find(phrase))]
    factor = "".join(f" <i>&times;{weight:g}</i>" for weight in weights)
    if not partners:
        return f'<span class="accel-chip accel-new">{_own(word)}{factor}</span>'
    was = " ".join(partners)
    if was.casefold() == word.casefold():
        return f'<span class="accel-chip{" accel-weighed" if weights else ""}">{_own(word)}{factor}</span>'
    return f'<span class="accel-chip accel-swapped"><s>{_own(was)}</s> → {_own(word)}{factor}</span>'


def _partners(ours: PromptTokens, mixing: Mixing, positions: list[int]) -> list[str]:
    """The source's words whose attention these positions take."""
    sources = mixing.take[:, positions].any(1).nonzero().flatten().tolist()
    return [ours.pieces[owner] for owner in dict.fromkeys(ours.owners[place] for place in sources) if owner >= 0]


def _gone(ours: PromptTokens, theirs: PromptTokens, mixing: Mixing) -> list[str]:
    """The source's words that no word of the edited prompt takes anything from."""
    given = {ours.owners[place] for place in mixing.take[:, theirs.content].any(1).nonzero().flatten().tolist()}
    return [word for number, word in enumerate(ours.pieces) if number not in given]


def _own(word: str) -> str:
    # What stands before it has no width; without it the host would translate words that are labels elsewhere.
    return f"&#8288;{escape(word)}"


def _complaint(error: SettingError) -> str:
    return f'<div class="accel-edit {_WRONG}">{escape(str(error))}</div>'
