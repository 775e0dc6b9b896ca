"""Which tokens of a source prompt the tokens of an edited prompt stand for. Pure: takes token streams, whoever made them.

Source: Prompt-to-Prompt Image Editing with Cross Attention Control (Hertz et al., arXiv 2208.01626), its released code, with the
differences that the functions name. The released rules themselves are in `published`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..core.fields import SettingError
from .tokens import PromptTokens, equally_long

MATCH, MISMATCH, GAP = 1, -1, 0


@dataclass(frozen=True)
class Alignment:
    """How maps over the source's tokens become maps over the target's.

    matrix: [source positions, target positions], the share of a source token's attention that a target token gets.
    found: [target positions], 1 where attention is taken from the source, 0 where the target's own is kept.
    """

    matrix: torch.Tensor
    found: torch.Tensor


def replacement(source: PromptTokens, target: PromptTokens) -> Alignment:
    """Word by word, for prompts of as many words; SettingError otherwise.

    A word of as many tokens is taken token by token; otherwise every token of the new word gets an equal share of all of the old one.
    Published rules (`published.replacement`) count positions instead of words behind the last change, and so misalign the tail of the
    sentence when the changed word has more or fewer tokens; here words, end tokens and padding keep their partners.
    """
    if len(source.words) != len(target.words):
        raise SettingError(
            f"edit is 'replace', and {source.text!r} has {len(source.words)} words, {target.text!r} {len(target.words)}; "
            "it must have as many (or take edit='refine')."
        )
    source, target = equally_long((source, target))
    matrix, found = _empty(source, target)
    for ours, theirs in zip(_segments(source), _segments(target)):
        if not theirs:
            continue
        if ours:
            _share(matrix, ours, theirs)
        else:
            found[theirs] = 0
    _specials(source, target, matrix)
    return Alignment(matrix, found)


def refinement(source: PromptTokens, target: PromptTokens) -> Alignment:
    """Token by token by the longest common course (Needleman-Wunsch); words that only the target has keep their own attention.

    As published but for padding: there a padding token takes the source token at its position, which may be a word when the target is
    shorter; here padding takes padding.
    """
    source, target = equally_long((source, target))
    matrix, found = _empty(source, target)
    ours, theirs = source.content, target.content
    for at, partner in enumerate(align([source.ids[p] for p in ours], [target.ids[p] for p in theirs])):
        if partner < 0:
            found[theirs[at]] = 0
        else:
            matrix[ours[partner], theirs[at]] = 1
    _specials(source, target, matrix)
    return Alignment(matrix, found)


def same_tokens(source: PromptTokens, target: PromptTokens) -> Alignment:
    """Position by position, for re-weighting alone."""
    source, target = equally_long((source, target))
    matrix, found = _empty(source, target)
    return Alignment(matrix.fill_diagonal_(1), found)


def align(source: Sequence[int], target: Sequence[int]) -> list[int]:
    """For every token of ``target`` its partner in ``source``, or -1. Global alignment: match 1, mismatch -1, gap 0.

    Equal scores prefer leaving out a target token, then a source token, then pairing, as published.
    """
    rows, columns = len(source) + 1, len(target) + 1
    score = [[0] * columns for _ in range(rows)]
    came = [["left"] * columns] + [["up"] + [""] * (columns - 1) for _ in range(rows - 1)]
    for i in range(1, rows):
        for j in range(1, columns):
            left, up = score[i][j - 1] + GAP, score[i - 1][j] + GAP
            pair = score[i - 1][j - 1] + (MATCH if source[i - 1] == target[j - 1] else MISMATCH)
            best = score[i][j] = max(left, up, pair)
            came[i][j] = "left" if best == left else "up" if best == up else "pair"
    partners = [-1] * len(target)
    i, j = rows - 1, columns - 1
    while i > 0 or j > 0:
        if came[i][j] == "pair":
            i, j = i - 1, j - 1
            partners[j] = i
        elif came[i][j] == "left" and j > 0:
            j -= 1
        else:
            i -= 1
    return partners


def _empty(source: PromptTokens, target: PromptTokens) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(len(source.ids), len(target.ids)), torch.ones(len(target.ids))


def _segments(prompt: PromptTokens) -> list[list[int]]:
    """The positions of punctuation before the first word, the first word, punctuation before the second, ... and behind the last."""
    segments: list[list[int]] = []
    begin = 0
    for piece in [*prompt.word_pieces, len(prompt.pieces)]:
        segments.append([p for number in range(begin, piece) for p in prompt.of_piece(number)])
        segments.append(prompt.of_piece(piece))
        begin = piece + 1
    return segments


def _share(matrix: torch.Tensor, ours: list[int], theirs: list[int]) -> None:
    """Token by token for as many; else every (source, target) pair gets the same share."""
    if len(ours) == len(theirs):
        matrix[ours, theirs] = 1
    else:
        matrix[torch.tensor(ours)[:, None], torch.tensor(theirs)] = 1 / len(theirs)


def _specials(source: PromptTokens, target: PromptTokens, matrix: torch.Tensor) -> None:
    """Begin to begin, end to end, padding to padding by position, chunk by chunk.

    Padding draws much attention, and none of it is to come or go: what one side has more of shares the first padding token of the other,
    or its end token where it has no padding.
    """
    for chunk in range(source.chunks):
        first, behind = chunk * source.chunk, (chunk + 1) * source.chunk
        ours, theirs = source.end_of(chunk), target.end_of(chunk)
        both = max(ours, theirs) + 1
        matrix[first, first] = 1
        if both == behind:
            _share(matrix, list(range(ours, behind)), list(range(theirs, behind)))
            continue
        matrix[ours, theirs] = 1
        _share(matrix, list(range(ours + 1, both + 1)), list(range(theirs + 1, both + 1)))
        for position in range(both + 1, behind):
            matrix[position, position] = 1
