"""Build the sample model's tokenizer, a byte-level BPE in CLIPTokenizer's format, from the captions.

    python -m sample_model.build_tokenizer --out lib_accel/sample/model/tokenizer

Every byte has a token, so any text can be written; every word of the captions becomes one token.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter
from pathlib import Path

from lib_accel.sample import captions, scenes
from lib_accel.sample.architecture import TOKENS

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
# Words of everyday prompts that captions lack: one token each keeps short prompts short.
EXTRA_WORDS = ("the", "with", "of", "in", "on", "at", "by", "is", "no", "not", "two", "or", "photo", "painting", "white", "black", "gray")


def byte_symbols() -> list:
    """The printable characters that stand for the bytes 0..255 in GPT-2's and CLIP's vocabularies, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(hidden))]


def learn_merges(words: Counter) -> list:
    """Merges, most frequent pair first, until every word is a single token. Ties are broken by the alphabet."""
    pieces = {word: (*tuple(word[:-1]), word[-1] + END_OF_WORD) for word in words}
    merges = []
    while True:
        pairs = Counter()
        for word, parts in pieces.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = {word: _merge(parts, best) for word, parts in pieces.items()}


def _merge(parts: tuple, pair: tuple) -> tuple:
    """Join every occurrence of `pair` in `parts`, from the left."""
    joined, place = [], 0
    while place < len(parts):
        if parts[place : place + 2] == pair:
            joined.append(parts[place] + parts[place + 1])
            place += 2
        else:
            joined.append(parts[place])
            place += 1
    return tuple(joined)


def build(folder: Path) -> int:
    """Write vocab.json, merges.txt and the two small configuration files; return the number of tokens."""
    words = Counter(word for text in captions.corpus() for word in text.replace(",", "").split() if word.isalpha())
    for word in [*EXTRA_WORDS, *scenes.SHAPES, *scenes.COLOURS, *scenes.TEXTURES, *scenes.SIZES, *scenes.BACKGROUNDS]:
        words[word] += 1
    merges = learn_merges(words)
    symbols = byte_symbols()
    tokens = symbols + [symbol + END_OF_WORD for symbol in symbols] + ["".join(pair) for pair in merges] + [START, END]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: place for place, token in enumerate(tokens)}
    _write(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False))
    _write(folder / "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = dict(
        special, add_prefix_space=False, do_lower_case=True, errors="replace", model_max_length=TOKENS, tokenizer_class="CLIPTokenizer"
    )
    _write(folder / "special_tokens_map.json", json.dumps(special, indent=2) + "\n")
    _write(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")
    return len(tokens)


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8"))  # bytes, so that line ends are the same on every system


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the tokenizer folder to write")
    print(build(parser.parse_args().out), "tokens")
