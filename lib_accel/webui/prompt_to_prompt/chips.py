"""The words of each edited prompt as chips: which keep the source's attention, which take a source word's place, which are new.

Only tokenizers run: nothing is loaded and nothing encoded. Everything that somebody typed is escaped.
"""

from __future__ import annotations

import zlib
from html import escape
from typing import Any

from ...core.fields import SettingError
from ...prompt_to_prompt import Edit, Mixing, PromptTokens, blankless, kind_of, mix, split_words, tokenize
from ..host import facts
from . import host_text
from .controls import CONTROLS
from .lines import Line, parse_lines

MOST_LINES = 40


def show(prompt: Any, edits: Any, kind: Any) -> str:
    """HTML for what is in the boxes, as it stands: an unfinished line is told what it lacks."""
    try:
        source = host_text.without_comments(str(prompt or ""))
        kind = CONTROLS["kind"].read(kind)
        lines = parse_lines(str(edits or ""))
    except SettingError as error:
        return _complaint(error)
    if not lines:
        return ""
    more = f'<div class="accel-edit">… {len(lines) - MOST_LINES}</div>' if len(lines) > MOST_LINES else ""
    return "".join(_of_line(line, source, kind) for line in lines[:MOST_LINES]) + more


def _of_line(line: Line, source: str, kind: str) -> str:
    try:
        ours, theirs = (_stream(text) for text in (source, line.applied(source)))
        edit = Edit(None, kind, line.weights)
        for word in line.weights:
            theirs.find(word)
        # Without the weights: one of 0 would hide where a word comes from.
        mixing = mix(ours, theirs, Edit(None, kind), 1.0)
        name = kind_of(ours, theirs, edit)
    except SettingError as error:
        return _complaint(error)
    chips = "".join(_chip(number, ours, theirs, mixing, line) for number in range(len(theirs.pieces)))
    gone = "".join(f'<del class="accel-gone">{_own(word)}</del>' for word in _gone(ours, theirs, mixing))
    tokens = len(theirs.content)
    chunks = f", {theirs.chunks} chunks" if theirs.chunks > 1 else ""
    return f'<div class="accel-edit"><b>{name}</b> {chips}{gone}<small>{tokens} tokens{chunks}</small></div>'


def _stream(prompt: str) -> PromptTokens:
    refusal = host_text.refused(prompt)
    if refusal:
        raise SettingError(f"{refusal[0].upper()}{refusal[1:]}.")
    text = host_text.without_tags(prompt)
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
    return f'<div class="accel-edit accel-wrong">{escape(str(error))}</div>'
