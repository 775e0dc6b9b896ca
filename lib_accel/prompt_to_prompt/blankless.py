"""Scripts that are written without blanks between words: Chinese, Japanese, Thai and their neighbours.

A run of their letters is many words. Where words end nobody can tell from the letters, but an edit may name any stretch of a run that ends
where tokens end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from unicodedata import category

# Thai, Lao, Tibetan, Burmese, Khmer, kana, bopomofo, Han characters.
_LETTERS = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3100-\u312f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af"
)
_LETTER = re.compile(f"[{_LETTERS}]")
_UNITS = re.compile(f"[{_LETTERS}]|[^{_LETTERS}]+")
# A letter and its mark are not parted.
_MARKS = "".join(letter for letter in map(chr, (*range(0xE00, 0x1800), 0x3099, 0x309A)) if category(letter)[0] == "M")
UNMARKED = f"(?![{_MARKS}])"
# Inside a word of a script with blanks.
_BEFORE, _AFTER = rf"(?<![^\W_{_LETTERS}])(?<![^\W_{_LETTERS}]_)", rf"(?!_?[^\W_{_LETTERS}])"

# The spelling of a token in its tokenizer's vocabulary, a sign for each byte; None where it is not known.
Speller = Callable[[int], "str | None"]


def has_letters(text: str) -> bool:
    """Whether there is a letter of such a script in ``text``."""
    return bool(_LETTER.search(text))


def units(word: str) -> list[str]:
    """The letters of such scripts one by one, and what is between them in one piece."""
    return _UNITS.findall(word)


def parts(word: str, tokens: Sequence[int], spell: Speller) -> list[tuple[str, list[int]]]:
    """``word`` cut where both a token and one of its `units` end: (part, its tokens). In one where tokens spell another word."""
    spelled = [spell(token) for token in tokens]
    letters = [unit.lower() for unit in units(word)]
    ends = _sums(len(unit.encode()) for unit in letters)
    if not has_letters(word) or None in spelled:
        return [(word, list(tokens))]
    token_ends = _sums(len(text.removesuffix("</w>")) for text in spelled)
    if not ends or not token_ends or ends[-1] != token_ends[-1]:
        return [(word, list(tokens))]
    found, unit, token = [], 0, 0
    for end in sorted(set(ends) & set(token_ends)):
        next_unit, next_token = ends.index(end) + 1, token_ends.index(end) + 1
        found.append(("".join(units(word)[unit:next_unit]), list(tokens[token:next_token])))
        unit, token = next_unit, next_token
    return found


def cut(
    pieces: Sequence[str], tokens: Sequence[tuple[int, int]], spell: Speller | None
) -> tuple[list[str], list[tuple[int, int]], set[int]]:
    """Pieces of a prompt and its tokens, each with the number of its piece, with words of such scripts cut into their `parts`; and the
    numbers of the pieces that go on with the one before. spell: None cuts nothing."""
    made: list[str] = []
    owned: list[tuple[int, int]] = []
    joined: set[int] = set()
    for number, piece in enumerate(pieces):
        its_tokens = [token for token, owner in tokens if owner == number]
        for place, (part, some) in enumerate(parts(piece, its_tokens, spell) if spell else [(piece, its_tokens)]):
            joined |= {len(made)} if place else set()
            owned += [(token, len(made)) for token in some]
            made.append(part)
    return made, owned, joined


def stretch(words: str) -> str:
    """A regular expression that finds ``words`` wherever they stand in such scripts, and as whole words in others."""
    inner = r"\s+".join(re.escape(word) for word in words.split())
    before = _BEFORE if re.match(r"\w", words) and not _LETTER.match(words) else ""
    return before + inner + (_AFTER if re.search(r"\w$", words) and not _LETTER.match(words[-1]) else "") + UNMARKED


def _sums(lengths: Iterable[int]) -> list[int]:
    ends: list[int] = []
    for length in lengths:
        ends.append(length + (ends[-1] if ends else 0))
    return ends
