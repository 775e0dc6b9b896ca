"""Words and their tokens, and how the tokens of two prompts are paired, where the released rules go wrong."""

import prompts
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_accel.prompt_to_prompt import PromptTokens, WordError, alignment, tokenize

PAIRS = prompts.golden("prompt_to_prompt/alignment_and_controllers")[0]["pairs"]
EXPECTED = {
    ("hash_sign", "dad"): [4],
    ("hash_sign", "mug"): [5],
    ("hash_sign", "shelf"): [8],
    ("double_space", "cat"): [2],
    ("double_space", "mat"): [5],
    ("non_ascii_bytes", "猫"): [2, 3, 4],
    ("non_ascii_bytes", "mat"): [7],
}


def stream(name, which="source"):
    return prompts.golden_stream(prompts.pair_of(PAIRS, name), which)


@pytest.mark.parametrize(("name", "word"), EXPECTED, ids=lambda value: value)
def test_words_that_letter_counting_loses_are_found(name, word):
    assert stream(name).find(word) == EXPECTED[name, word]


@pytest.mark.parametrize("name", [pair["name"] for pair in PAIRS if pair["name"] not in {name for name, _ in EXPECTED}])
def test_other_words_are_found_as_published(name):
    pair = prompts.pair_of(PAIRS, name)
    for case in pair["word_inds"]:
        if case["inds"] and max(case["inds"]) < 76:
            assert stream(name, case["text"]).find(case["word"]) == case["inds"]


def test_case_punctuation_and_phrases_are_forgiven():
    tokens = prompts.Words(16, lamborghini=3)("A Red, Lamborghini (parked) near a red barn.")
    assert tokens.find("lamborghini") == tokens.find("LAMBORGHINI,") == [4, 5, 6]
    assert tokens.find("red lamborghini") == [2, 4, 5, 6]
    assert tokens.find("red") == [2, 12]
    assert tokens.find(2) == [4, 5, 6]
    assert tokens.words == ["A", "Red", "Lamborghini", "parked", "near", "a", "red", "barn"]


@pytest.mark.parametrize("word", ["zebra", "cat mat", "", "ca", 5, -1])
def test_an_unknown_word_is_a_sentence_with_those_that_are_there(word):
    with pytest.raises(WordError, match=r"^word( number)? is .*; the prompt 'a cat on a mat' has the words (a, cat, on, a, mat|0 to 4)\.$"):
        prompts.Words()("a cat on a mat").find(word)


def test_long_prompts_come_in_chunks():
    tokens = prompts.Words(8)("one two three four five six seven eight")
    assert tokens.chunks == 2
    assert tokens.find("six") == [6]
    assert tokens.find("seven") == [9]
    assert [tokens.end_of(0), tokens.end_of(1)] == [7, 11]
    assert tokens.padded(3).end_of(2) == 17


def test_a_tokenizer_that_joins_words_is_followed():
    """Streams hold the text encoder's tokens, whatever becomes of the words."""
    joined = tokenize("new york", lambda text: [7] if text == "new york" else [1, 2], (0, 0, 0), 8)
    assert joined.ids[1:2] == (7,)
    assert joined.owners.count(0) == 1


def test_replaced_words_keep_the_tail_aligned():
    """Behind a word of other length published rules pair "on" with "er"."""
    source, target = stream("swap_shorter_mid"), stream("swap_shorter_mid", "target")
    matrix = alignment.replacement(source, target).matrix
    for word in ("on", "wooden", "table"):
        assert matrix[source.find(word), target.find(word)].tolist() == [1]
    assert matrix[source.find("triceratops"), target.find("cat")].tolist() == [1, 1, 1, 1]
    assert matrix[source.end_of(0), target.end_of(0)] == 1


def test_attention_neither_comes_nor_goes_when_words_are_replaced():
    for name in ("swap_shorter_mid", "swap_tail_word", "exact_75", "long_over_77", "identical"):
        pair = alignment.replacement(stream(name), stream(name, "target"))
        torch.testing.assert_close(pair.matrix.sum(1), torch.ones(len(pair.matrix)))


def test_refinement_leaves_new_words_to_themselves():
    source, target = stream("refine_swap_and_insert"), stream("refine_swap_and_insert", "target")
    pair = alignment.refinement(source, target)
    assert [target.pieces[target.owners[p]] for p in range(77) if not pair.found[p]] == ["smiling", "dog"]
    assert pair.matrix[source.find("sitting"), target.find("sitting")].tolist() == [1]


def test_padding_is_not_taken_from_words():
    """By position a shorter prompt's padding would take the longer one's last words."""
    source, target = stream("refine_delete"), stream("refine_delete", "target")
    words = [p for p, owner in enumerate(source.owners) if owner >= 0]
    padding = list(range(target.end_of(0) + 1, 77))
    assert alignment.refinement(source, target).matrix[words][:, padding].sum() == 0


def test_prompts_of_different_lengths_in_chunks_are_aligned():
    tokenizer = prompts.Words(8)
    source, target = tokenizer("one two three"), tokenizer("one two three four five six seven eight")
    pair = alignment.refinement(source, target)
    assert pair.matrix.shape == (16, 16)
    assert pair.found[target.find("eight")].tolist() == [0]
    assert pair.matrix[8, 8] == 1
    both = tokenizer("a b c d e f g red h"), tokenizer("a b c d e f g blue h")
    matrix = alignment.replacement(*both).matrix
    assert matrix[both[0].find("red"), both[1].find("blue")].tolist() == [1]


def test_different_word_counts_are_a_sentence():
    with pytest.raises(ValueError, match=r"^edit is 'replace', and 'a cat' has 2 words, 'a big cat' 3; it must have as many"):
        alignment.replacement(prompts.Words()("a cat"), prompts.Words()("a big cat"))


@given(st.lists(st.integers(0, 4), max_size=9), st.lists(st.integers(0, 4), max_size=9))
def test_alignments_pair_equal_tokens_in_order_and_as_many_as_can_be(source, target):
    partners = alignment.align(source, target)
    pairs = [(partner, at) for at, partner in enumerate(partners) if partner >= 0]
    assert all(source[i] == target[j] for i, j in pairs)
    assert [i for i, _ in pairs] == sorted({i for i, _ in pairs})
    longest = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, one in enumerate(source):
        for j, other in enumerate(target):
            longest[i + 1][j + 1] = longest[i][j] + 1 if one == other else max(longest[i][j + 1], longest[i + 1][j])
    assert len(pairs) == longest[-1][-1]


def test_streams_of_a_host_are_checked():
    with pytest.raises(ValueError, match="whole chunks of 77"):
        PromptTokens("a", (1, 2), (-1, -1), ())
    with pytest.raises(ValueError, match="it must hold 6 at most"):
        PromptTokens.from_chunks("a", [[(5, 0)] * 7], ["a"], (1, 2, 2), 8)
    for stray in (-1, 1):
        with pytest.raises(ValueError, match=f"belongs to piece {stray}; it must be a number from 0 to 0"):
            PromptTokens.from_chunks("a", [[(5, stray)]], ["a"], (1, 2, 2), 8)
