"""The words of a text and its punctuation, and where words follow each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from unicodedata import category

# A word with its apostrophes and hyphens, or a run of punctuation; where CLIP's own tokenizer splits, too.
WORD = r"[^\W_]+(?:['\u2019_-][^\W_]+)*"
_PIECES = re.compile(WORD + r"|(?:[^\w\s]|_)+")


def split_words(text: str) -> list[str]:
    """The words of ``text`` and, apart from them, its punctuation, in order."""
    return _PIECES.findall(text)


def is_word(piece: str) -> bool:
    """Whether ``piece`` is a word rather than punctuation. The marks of Thai and its like stand apart from their letters."""
    return any(letter.isalnum() or category(letter)[0] == "M" for letter in piece)


def normal(piece: str) -> str:
    return piece.casefold().replace("\u2019", "'")


def words_in(piece: str) -> list[str]:
    """The words in a piece, or in what somebody looks for, without punctuation around them."""
    return [normal(word) for word in split_words(piece) if is_word(word)]


def occurrences(have: Sequence[tuple[str, int]], wanted: Sequence[str]) -> list[list[int]]:
    """Where the words ``wanted`` follow each other in ``have``, (word, number of its piece) in order: each time these pieces."""
    found: list[list[int]] = []
    for at in range(len(have) - len(wanted) + 1 if wanted else 0):
        if [word for word, _ in have[at : at + len(wanted)]] == list(wanted):
            found.append([number for _, number in have[at : at + len(wanted)]])
    return found
