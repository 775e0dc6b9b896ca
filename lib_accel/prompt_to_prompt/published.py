"""The rules of the released codes, kept for conformance: where they are known to go wrong, they do so here too.

Prompt-to-Prompt (google/prompt-to-prompt) and CrossAttentionControl (bloc97). `alignment` has what edits use otherwise.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch

from ..core.fields import SettingError
from .alignment import Alignment, align
from .tokens import CHUNK, PromptTokens


def word_tokens(text: str, tokens: Sequence[str], word: str | int) -> list[int]:
    """Positions of ``word`` in a prompt by counting letters. tokens: the texts of the prompt's tokens, without begin and end.

    Blanks alone separate words, a word must be written as in the text; a number is a place among them. Tokens of bytes and hash signs
    shift all that follows.
    """
    words = text.split(" ")
    wanted = {word} if isinstance(word, int) else {place for place, other in enumerate(words) if other == word}
    found, place, letters = [], 0, 0
    for position, token in enumerate(tokens, 1):
        letters += len(token.strip("#"))
        if place in wanted:
            found.append(position)
        if place < len(words) and letters >= len(words[place]):
            place, letters = place + 1, 0
    return found


Changes = Sequence[tuple[Sequence[int], Sequence[int]]]


def changed_words(source: str, target: str, source_tokens: Sequence[str], target_tokens: Sequence[str]) -> Changes:
    """(positions in the source, positions in the target) of every word that differs, by `word_tokens`.

    SettingError for different counts.
    """
    ours, theirs = source.split(" "), target.split(" ")
    _refuse_counts(source, target, len(ours), len(theirs))
    places = [place for place in range(len(ours)) if ours[place] != theirs[place]]
    return [(word_tokens(source, source_tokens, place), word_tokens(target, target_tokens, place)) for place in places]


def replacement_matrix(changes: Changes, length: int = CHUNK) -> torch.Tensor:
    """[length, length], rows source, columns target: words that differ are paired, tokens between them in order, and behind the last of
    them by absolute position.
    """
    changes = list(changes)
    matrix = torch.zeros(length, length)
    i = j = 0
    while i < length and j < length:
        if changes and list(changes[0][0][:1]) == [i]:
            ours, theirs = (list(positions) for positions in changes.pop(0))
            if len(ours) == len(theirs):
                matrix[ours, theirs] = 1
            else:
                for token in theirs:
                    matrix[ours, token] = 1 / len(theirs)
            i, j = i + len(ours), j + len(theirs)
        else:
            matrix[i if changes else j, j] = 1
            i, j = i + 1, j + 1
    return matrix


def refinement_partners(source: Sequence[int], target: Sequence[int], length: int = CHUNK) -> torch.Tensor:
    """[length] for every target position its source position or -1. source, target: ids with begin and end, without padding; padding
    takes the position that it has, whatever is there.
    """
    partners = torch.arange(length)
    partners[: len(target)] = torch.tensor(align(source, target))
    return partners


def replacement(source: PromptTokens, target: PromptTokens) -> Alignment:
    """`replacement_matrix`, with the words and their tokens from the streams."""
    _one_chunk(source, target)
    _refuse_counts(source.text, target.text, len(source.pieces), len(target.pieces))
    places = [place for place, piece in enumerate(source.pieces) if piece != target.pieces[place]]
    changes = [(source.of_piece(place), target.of_piece(place)) for place in places]
    return Alignment(replacement_matrix(changes, source.chunk), torch.ones(source.chunk))


def refinement(source: PromptTokens, target: PromptTokens) -> Alignment:
    """`refinement_partners` as an alignment."""
    _one_chunk(source, target)
    ids = [p.ids[: p.end_of(0) + 1] for p in (source, target)]
    partners = refinement_partners(*ids, length=source.chunk)
    found = (partners >= 0).float()
    matrix = torch.zeros(source.chunk, source.chunk)
    matrix[partners.clamp(min=0), torch.arange(source.chunk)] = found
    return Alignment(matrix, found)


def match_sequences(source: Sequence[int], target: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """bloc97: (mask, partners), one entry per position of ``target``; ids with padding.

    Equal runs are paired, and replaced ones of equal length.
    """
    mask, partners = torch.zeros(len(target)), torch.zeros(len(target), dtype=torch.int64)
    for name, a0, a1, b0, b1 in difflib.SequenceMatcher(None, list(source), list(target)).get_opcodes():
        if name == "equal" or (name == "replace" and a1 - a0 == b1 - b0):
            mask[b0:b1] = 1
            partners[b0:b1] = torch.arange(a0, a1)
    return mask, partners


def sequence_match(source: PromptTokens, target: PromptTokens) -> Alignment:
    """`match_sequences` as an alignment, over all chunks."""
    chunks = max(source.chunks, target.chunks)
    source, target = source.padded(chunks), target.padded(chunks)
    mask, partners = match_sequences(source.ids, target.ids)
    matrix = torch.zeros(len(source.ids), len(target.ids))
    matrix[partners, torch.arange(len(target.ids))] = mask
    return Alignment(matrix, mask)


def _one_chunk(*prompts: PromptTokens) -> None:
    for prompt in prompts:
        if prompt.chunks > 1:
            raise SettingError(
                f"variant is 'published', and {prompt.text!r} has {len(prompt.content)} tokens; it must have {prompt.chunk - 2} or fewer."
            )


def _refuse_counts(source: str, target: str, ours: int, theirs: int) -> None:
    if ours != theirs:
        raise SettingError(f"edit is 'replace', and {source!r} has {ours} words, {target!r} {theirs}; it needs as many.")
