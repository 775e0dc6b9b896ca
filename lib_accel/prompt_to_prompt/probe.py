"""Edited batches made up to be timed, checked and tested: as `edit_images` builds them, from prompts that one word tells apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .edits import Edit, mix
from .local_blend import LocalBlend
from .method import ImageEdit, PromptToPrompt
from .tokens import CHUNK, PromptTokens, split_words, tokenize

SOURCE, EDITED = "a photo of a squirrel on a wooden table at noon", "a photo of a lion on a wooden table at noon"


@dataclass(frozen=True)
class EditProbe:
    """A batch whose first picture is the source of the others. pictures: how many there are, from 2; a guided one takes two rows.

    kind, cross_replace, self_replace, self_layers, self_source: as `lib_accel.edit_images` has them, and its defaults. blend: whether the
    maps of a local blend are summed.
    """

    pictures: int = 2
    kind: str = "replace"
    cross_replace: Any = 0.8
    self_replace: Any = 0.4
    self_layers: str = "1/4"
    self_source: str = "map"
    blend: bool = False

    def method(self) -> PromptToPrompt:
        """The settings object of such a batch."""
        source, edited = streams(SOURCE, EDITED)
        mixing = mix(source, edited, Edit(kind=self.kind), self.cross_replace)
        edits = [ImageEdit(image, 0, (mixing,), self.self_replace) for image in range(1, self.pictures)]
        blend = LocalBlend("squirrel", "lion").aligned([source, *[edited] * (self.pictures - 1)]) if self.blend else None
        return PromptToPrompt(tuple(edits), blend, self_layers=self.self_layers, self_source=self.self_source)


def streams(*texts: str) -> list[PromptTokens]:
    """The token streams of ``texts``, every word one token."""
    words: dict[str, int] = {}

    def encode(text: str) -> list[int]:
        return [words.setdefault(word, len(words) + 10) for word in split_words(text)]

    return [tokenize(text, encode, (1, 2, 2), CHUNK) for text in texts]
