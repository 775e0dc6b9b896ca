"""Token streams for tests: golden prompts with CLIP's real ids, and made-up vocabularies where a word has as many tokens as it is told."""

from __future__ import annotations

from typing import Any

from golden import DATA, read_json
from safetensors.torch import load_file

from lib_accel.prompt_to_prompt import PromptTokens, split_words, tokenize

CLIP = (49406, 49407, 49407)


def golden(name: str) -> tuple[dict[str, Any], dict]:
    """Cases and tensors of a golden data set (tests/data)."""
    return read_json(name), load_file(DATA / f"{name}.safetensors")


def pair_of(pairs: list[dict], name: str) -> dict:
    return next(pair for pair in pairs if pair["name"] == name)


def golden_stream(pair: dict, which: str) -> PromptTokens:
    """The stream of a golden pair's ``source`` or ``target``; its encoder knows that prompt's tokens alone."""
    ids, texts = pair[f"{which}_ids"][1:-1], pair[f"{which}_tokens"][1:-1]
    known = {text: token for token, text in zip(ids, texts)}
    parts = [token for token, text in zip(ids, texts) if "\ufffd" in text]

    def encode(text: str) -> list[int]:
        out: list[int] = []
        for word in text.lower().split():
            while word:
                best = max((piece for piece in known if word.startswith(piece)), key=len, default="")
                out += [known[best]] if best else parts
                word = word[len(best) or 1 :]
        return out

    stream = tokenize(pair[which], encode, CLIP)
    assert [token for token, owner in zip(stream.ids, stream.owners) if owner >= 0] == ids
    return stream


class Words:
    """A tokenizer for tests: every word is one token, or as many as ``lengths`` says; equal words have equal ids."""

    def __init__(self, chunk: int = 8, **lengths: int) -> None:
        self.chunk, self.lengths = chunk, lengths
        self._ids: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return [
            100 * self._ids.setdefault(word.lower(), len(self._ids) + 1) + part
            for word in split_words(text)
            for part in range(self.lengths.get(word.lower(), 1))
        ]

    def __call__(self, text: str) -> PromptTokens:
        return tokenize(text, self.encode, (1, 2, 3), self.chunk)
