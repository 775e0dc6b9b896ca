"""A prompt as its text encoder takes it: token positions in chunks, and the words that they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..core.fields import SettingError
from . import blankless
from .splitting import is_word, normal, occurrences, words_in

CHUNK = 77


class WordError(SettingError):
    """A word that is not in the prompt; the sentence names those that are."""


@dataclass(frozen=True)
class PromptTokens:
    """A prompt's token positions. ValueError when the lengths do not fit.

    text: the prompt as written. ids: the token id at every position, ``chunk`` positions per chunk: a begin token, content, an end token,
    padding. owners: the number of the piece in ``pieces`` that a position belongs to, -1 for begin, end and padding. pieces: words and
    punctuation, in order. A WebUI builds it from its own chunks with `from_chunks`, so that emphasis, BREAK, textual inversion and moved
    commas are as they really are; `tokenize` builds it from a text and a tokenizer. joined: the pieces that go on with the word before
    them, in scripts without blanks. padding: its token, which a chunk that is full does not show; None: the last one of ``ids``.
    """

    text: str
    ids: tuple[int, ...]
    owners: tuple[int, ...]
    pieces: tuple[str, ...]
    chunk: int = CHUNK
    joined: frozenset[int] = frozenset()
    padding: int | None = None

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.owners) or not self.ids or len(self.ids) % self.chunk:
            raise ValueError(
                f"PromptTokens has {len(self.ids)} ids and {len(self.owners)} owners; both must be whole chunks of {self.chunk}."
            )

    @classmethod
    def from_chunks(
        cls,
        text: str,
        chunks: Sequence[Sequence[tuple[int, int]]],
        pieces: Sequence[str],
        specials: tuple[int, int, int],
        chunk: int = CHUNK,
        joined: Iterable[int] = (),
    ) -> PromptTokens:
        """From the content of every chunk.

        chunks: for each chunk its (token id, number of the piece in ``pieces``) without begin, end and padding, ``chunk - 2`` at most; no
        chunk is one empty chunk. specials: ids of begin, end and padding. ValueError for longer chunks and numbers of no piece.
        """
        begin, end, padding = specials
        ids: list[int] = []
        owners: list[int] = []
        for content in chunks or [()]:
            if len(content) > chunk - 2:
                raise ValueError(f"A chunk holds {len(content)} tokens; it must hold {chunk - 2} at most.")
            stray = [owner for _, owner in content if not 0 <= owner < len(pieces)]
            if stray:
                raise ValueError(f"A token belongs to piece {stray[0]}; it must be a number from 0 to {len(pieces) - 1}.")
            rest = chunk - 2 - len(content)
            ids += [begin, *(token for token, _ in content), end, *[padding] * rest]
            owners += [-1, *(owner for _, owner in content), -1, *[-1] * rest]
        return cls(text, tuple(ids), tuple(owners), tuple(pieces), chunk, frozenset(joined), padding)

    @property
    def chunks(self) -> int:
        return len(self.ids) // self.chunk

    @property
    def content(self) -> list[int]:
        """The positions of words and punctuation, in order."""
        return [position for position, owner in enumerate(self.owners) if owner >= 0]

    @property
    def words(self) -> list[str]:
        """The words, without punctuation; their numbers in `find` are their places here."""
        return [self.pieces[piece] for piece in self.word_pieces]

    @property
    def word_pieces(self) -> list[int]:
        """For every word the number of its piece."""
        return [number for number, piece in enumerate(self.pieces) if is_word(piece)]

    def end_of(self, chunk: int) -> int:
        """The position of the end token of chunk number ``chunk``."""
        first = chunk * self.chunk
        return first + 1 + sum(self.owners[position] >= 0 for position in range(first, first + self.chunk))

    def of_piece(self, number: int) -> list[int]:
        """The positions of a piece."""
        return [position for position, owner in enumerate(self.owners) if owner == number]

    def padded(self, chunks: int) -> PromptTokens:
        """The same with as many empty chunks behind it as make ``chunks``."""
        missing = max(0, chunks - self.chunks)
        if not missing:
            return self
        begin, end = self.ids[0], self.ids[self.end_of(0)]
        padding = self.ids[-1] if self.padding is None else self.padding
        empty = (begin, end, *[padding] * (self.chunk - 2))
        return replace(self, ids=self.ids + empty * missing, owners=self.owners + (-1,) * self.chunk * missing)

    def find(self, word: str | int) -> list[int]:
        """The positions of all occurrences of a word or phrase, or of the word with that number (from 0). WordError when there is none.

        Case, punctuation and blanks around words are forgiven: ``red car`` finds "Red car,", and ``toy`` finds "<toy>" where no piece is
        just that word. In scripts without blanks a stretch of a word is found, too, where it ends with tokens; WordError where there
        are several.
        """
        places = self.word_pieces
        if isinstance(word, int) and not isinstance(word, bool):
            if not 0 <= word < len(places):
                have = f"the words 0 to {len(places) - 1}" if places else "no words"
                raise WordError(f"word number is {word}; the prompt {self.text!r} has {have}.")
            return self.of_piece(places[word])
        as_written = [(normal(self.pieces[piece]), piece) for piece in places]
        by_words = [(inner, piece) for piece in places for inner in words_in(self.pieces[piece])]
        by_letters = [(unit, piece) for inner, piece in by_words for unit in blankless.units(inner)]
        letters = [unit for inner in words_in(str(word)) for unit in blankless.units(inner)]
        stretches = [pieces for pieces in occurrences(by_letters, letters) if self._is_all_of(pieces, by_letters, letters)]
        asked = (as_written, [normal(piece) for piece in str(word).split()]), (by_words, words_in(str(word)))
        found = next(filter(None, map(self._uncut, [*(occurrences(*each) for each in asked), stretches])), stretches)
        if not found:
            raise WordError(f"word is {word!r}; the prompt {self.text!r} has the words {', '.join(self._uncut_words()) or '(none)'}.")
        if len(found) > 1 and not self._uncut(found):
            shown = ", ".join(map(self._shown, found))
            raise WordError(f"word is {word!r}; the prompt has it {len(found)} times: {shown}. Write more of the one that is meant.")
        return sorted({position for pieces in found for piece in pieces for position in self.of_piece(piece)})

    def _uncut(self, found: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """Those of ``found``, lists of pieces, that neither begin nor end inside a word."""
        return [pieces for pieces in found if pieces[0] not in self.joined and pieces[-1] + 1 not in self.joined]

    def _is_all_of(self, pieces: Sequence[int], by_letters: Sequence[tuple[str, int]], letters: Sequence[str]) -> bool:
        """Whether these pieces have no other letters than ``letters``."""
        return sum(piece in pieces for _, piece in by_letters) == len(letters)

    def _uncut_words(self) -> list[str]:
        """The words, those of scripts without blanks as they were written."""
        words: list[str] = []
        for piece in self.word_pieces:
            if piece in self.joined:
                words[-1] += self.pieces[piece]
            else:
                words.append(self.pieces[piece])
        return words

    def _shown(self, pieces: Sequence[int]) -> str:
        """These pieces in brackets, with a little of what is joined to them."""
        first, last = pieces[0], pieces[-1]
        begin, end = first, last + 1
        while begin in self.joined and first - begin < 2:
            begin -= 1
        while end in self.joined and end - last <= 2:
            end += 1
        return "{}[{}]{}".format(*("".join(self.pieces[a:b]) for a, b in ((begin, first), (first, last + 1), (last + 1, end))))

    def has(self, word: str | int) -> bool:
        """Whether `find` finds it."""
        try:
            return bool(self.find(word))
        except WordError:
            return False


def equally_long(prompts: Iterable[PromptTokens]) -> list[PromptTokens]:
    """All with as many chunks as the longest."""
    prompts = list(prompts)
    most = max(prompt.chunks for prompt in prompts)
    return [prompt.padded(most) for prompt in prompts]
