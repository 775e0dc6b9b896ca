"""Every word that an error lists is found: the tokenizer's own pieces decide what a word is."""

import re

import pytest

from lib_accel.prompt_to_prompt import LocalBlend, Reweight, WordError, mix, tokenize
from lib_accel.prompt_to_prompt.tokens import PromptTokens
from lib_accel.prompt_to_prompt.windows import token_windows

# As CLIP's tokenizers take a text apart: what stands behind an apostrophe, letters, single digits, marks.
CLIP = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")


class Tokenizer:
    """CLIP's rules, every piece one token; and placeholders of textual inversion with as many as ``placeholders`` says."""

    def __init__(self, **placeholders):
        self.placeholders = {f"<{name}>": vectors for name, vectors in placeholders.items()}
        self._ids = {}

    def encode(self, text):
        ids = []
        for part in re.split("(" + "|".join(map(re.escape, self.placeholders)) + ")", text) if self.placeholders else [text]:
            vectors = self.placeholders.get(part)
            names = [f"{part}_{n}" for n in range(vectors)] if vectors else CLIP.findall(part.lower())
            ids += [self._ids.setdefault(name, 10 + len(self._ids)) for name in names]
        return ids

    def __call__(self, text):
        return tokenize(text, self.encode, (1, 2, 2), 16)


@pytest.mark.parametrize(
    ("prompt", "word", "positions"),
    [
        ("a <toy> on a mat", "<toy>", [2, 3, 4]),
        ("a <toy>, a ring, a mat", "<toy>", [2, 3, 4]),
        ("a <toy>, a ring, a mat", "toy", [2, 3, 4]),
        ("a <toy>, a ring, a mat", "ring,", [7]),
        ("a <toy>, a ring, a mat", "ring", [7]),
        ("a <toy> beside a toy", "<toy>", [2, 3, 4]),
        ("a <toy> beside a toy", "toy", [7]),
        ("two <toy>s and a <doll>", "<doll>", [8]),
        ("a 'star' on a wall", "'star'", [2, 3]),
        ("a 'star' on a wall", "star", [2, 3]),
        ("a 'star' on a wall", "wall", [7]),
        ("the star's edge", "star's", [2, 3]),
        ("the 'star's edge", "star's", [2, 3, 4]),
        ("the star\u2019s edge", "star's", [2, 3, 4]),
        ("a __color__ circle", "color", [3]),
        ("a __color__ circle", "__color__", [3]),
        ("a light_blue circle", "light_blue", [2, 3, 4]),
        ("(a red car:1.3), 4k", "red car", [3, 4]),
        ("a red-haired girl", "red-haired girl", [2, 3, 4, 5]),
    ],
)
def test_words_are_found_where_their_tokens_are(prompt, word, positions):
    assert Tokenizer(toy=3, doll=1)(prompt).find(word) == positions


@pytest.mark.parametrize(
    "prompt",
    ["a <toy>, 'star' and the star's ring, in __color__ (red-haired:1.2)", "l'\u00e9t\u00e9 'tis 'round the 90's \u732b, <toy><doll>"],
)
def test_whatever_is_listed_is_found(prompt):
    tokens = Tokenizer(toy=2, doll=1)(prompt)
    with pytest.raises(WordError) as told:
        tokens.find("nowhere")
    listed = str(told.value).split("has the words ")[1].removesuffix(".").split(", ")
    assert listed == tokens.words and all(tokens.find(word) for word in listed)
    # Every token is some piece's.
    assert len(tokens.content) == len(Tokenizer(toy=2, doll=1).encode(prompt))


def test_placeholders_are_weighted_blended_and_have_windows():
    tokens, other = Tokenizer(toy=3)("a <toy>, on a mat"), Tokenizer(toy=3)("a <toy>, on a rug")
    kept = mix(tokens, tokens, Reweight({"<toy>": 2.0}))
    weights = kept.take.sum(0) + kept.keep
    assert weights.max() == 2 and [at for at in range(16) if weights[at] == 2] == [2, 3, 4]
    assert LocalBlend("<toy>", ("<toy>",)).aligned([tokens, other])
    windows = token_windows(tokens, {"<toy>": 0.5, "default_": 1.0})
    assert [at for at in range(16) if windows[at, 1] == 0.5] == [2, 3, 4]


def test_a_tokenizer_that_joins_words_is_followed():
    joined = tokenize("in new york today", lambda text: [len(word) for word in text.replace("new york", "newyork").split()], (0, 0, 0), 8)
    assert joined.words == ["in", "new york", "today"] and joined.find("new york") == joined.find("york") == [2]


def test_texts_that_nobody_can_take_apart_do_not_take_forever():
    asked = []

    def encode(text):
        asked.append(text)
        return [len(text), len(asked)]

    assert tokenize("word " * 200, encode, (0, 0, 0), 8).words == ["#0", "#1"]
    assert len(asked) < 2000


@pytest.mark.parametrize("words", [3, 75, 150])
def test_chunks_that_are_added_are_the_empty_prompts(words):
    """SD2.x and SDXL's second tokenizer pad with a token of its own, which a chunk that is full does not show."""
    content = [[(5, 0)] * min(75, words - start) for start in range(0, words, 75)]
    tokens = PromptTokens.from_chunks("word", content, ["word"], (1, 2, 0))
    empty = PromptTokens.from_chunks("", [], [], (1, 2, 0))
    assert tokens.padded(tokens.chunks + 1).ids[-77:] == empty.ids == (1, 2, *[0] * 75)
