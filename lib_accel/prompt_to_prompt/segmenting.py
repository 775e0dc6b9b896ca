"""A text cut into the pieces that its tokenizer knows, each with its tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from . import blankless
from .splitting import WORD, split_words
from .tokens import CHUNK, PromptTokens

# Words and marks that may be one piece for a tokenizer.
LONGEST = 16
# With every mark for itself.
_ATOMS = re.compile(WORD + r"|[^\w\s]|_")


def tokenize(
    text: str,
    encode: Callable[[str], Sequence[int]],
    specials: tuple[int, int, int],
    chunk: int = CHUNK,
    spell: blankless.Speller | None = None,
) -> PromptTokens:
    """``text`` in chunks of ``chunk - 2`` tokens. encode: token ids of a text, without begin and end. specials: begin, end, padding.
    spell: a token's spelling in the vocabulary, for words of scripts without blanks; None: they stay whole.

    Words are told apart by `segmented`; where that cannot be, every token is a word of its own.
    """
    pieces, tokens, joined = blankless.cut(*segmented(text, encode), spell)
    size = chunk - 2
    chunks = [tokens[at : at + size] for at in range(0, len(tokens), size)]
    return PromptTokens.from_chunks(text, chunks, pieces, specials, chunk, joined)


def segmented(text: str, encode: Callable[[str], Sequence[int]]) -> tuple[list[str], list[tuple[int, int]]]:
    """The pieces of ``text`` that its tokenizer knows, and its tokens in order, each with the number of its piece.

    encode: as for `tokenize`. Words and punctuation are pieces of their own wherever their tokens, one after the other, are those of the
    whole text. Where they are not, as few of them as must be go together: a placeholder of textual inversion (``<toy>``), or what stands
    behind an apostrophe ('star is 's and tar to CLIP).
    """
    whole, spans = list(encode(text)), [found.span() for found in _ATOMS.finditer(text)]
    known: dict[str, list[int]] = {}
    # Where each piece begins, in words and in tokens, and how many words it has; from the first, backwards where none fits.
    path, at, token, size = [], 0, 0, 1
    hopeless: set[tuple[int, int]] = set()
    while at < len(spans) or token < len(whole):
        if at + size > len(spans) or size > LONGEST or (at, token) in hopeless:
            hopeless.add((at, token))
            if not path:
                # Something that we do not know was done to the text.
                return [f"#{number}" for number in range(len(whole))], [(one, number) for number, one in enumerate(whole)]
            at, token, size = path.pop()
            size += 1
            continue
        piece = text[spans[at][0] : spans[at + size - 1][1]]
        its_tokens = known.get(piece)
        if its_tokens is None:
            its_tokens = known[piece] = list(encode(piece))
        if whole[token : token + len(its_tokens)] != its_tokens:
            size += 1
            continue
        path.append((at, token, size))
        at, token, size = at + size, token + len(its_tokens), 1
    pieces = [text[spans[at][0] : spans[at + size - 1][1]] for at, _, size in path]
    starts = [token for _, token, _ in path] + [len(whole)]
    return pieces, [(one, number) for number in range(len(pieces)) for one in whole[starts[number] : starts[number + 1]]]


def streams(*texts: str) -> list[PromptTokens]:
    """The token streams of ``texts`` without a tokenizer: every word is one token, the same in all of them."""
    words: dict[str, int] = {}

    def encode(text: str) -> list[int]:
        return [words.setdefault(word, len(words) + 10) for word in split_words(text)]

    return [tokenize(text, encode, (1, 2, 2), CHUNK) for text in texts]
