"""Words in scripts without blanks: any stretch that ends with tokens can be named, and one that stands in several places is told."""

import pytest

from lib_accel.prompt_to_prompt import Edit, WordError, blankless, kind_of, mix, tokenize
from lib_accel.webui.prompt_to_prompt.lines import parse_line

CHINESE = "一只红色的猫坐在垫子上"
# As CLIP's: bytes are tokens, but for these, which its merges made one; the last token of a word is another than inside.
MERGED = ("在", "ส", "坐在", "cat", "iphone")


class Bytes:
    def __init__(self):
        self.names = {}

    def spellings(self, word):
        data, at, found = word.lower(), 0, []
        while at < len(data):
            merged = next((text for text in sorted(MERGED, key=len, reverse=True) if data.startswith(text, at)), None)
            text = merged or data[at]
            spelled = text.encode().decode("latin-1")
            found += [spelled] if merged or data[at].isascii() else list(spelled)
            at += len(text)
        return [*found[:-1], found[-1] + "</w>"]

    def encode(self, text):
        from lib_accel.prompt_to_prompt import split_words

        spelled = [one for word in split_words(text) for one in self.spellings(word)]
        return [self.names.setdefault(one, len(self.names) + 10) for one in spelled]

    def spell(self, token):
        return next(name for name, number in self.names.items() if number == token)

    def __call__(self, text, spell=True):
        return tokenize(text, self.encode, (1, 2, 2), spell=self.spell if spell else None)


@pytest.fixture
def tokens():
    return Bytes()


def test_letters_that_end_with_tokens_are_pieces(tokens):
    prompt = tokens(f"a cat, {CHINESE}")
    assert prompt.pieces == ("a", "cat", ",", "一", "只", "红", "色", "的", "猫", "坐在", "垫", "子", "上")
    assert prompt.joined == frozenset(range(4, 13))
    assert [len(prompt.of_piece(number)) for number in (1, 8, 9, 12)] == [3 - 2, 3, 1, 3]
    assert tokens(CHINESE, spell=False).pieces == (CHINESE,)


@pytest.mark.parametrize(("word", "pieces"), [("猫", [5]), ("红色的猫", [2, 3, 4, 5]), ("坐在垫子", [6, 7, 8]), (CHINESE, list(range(10)))])
def test_stretches_are_found(tokens, word, pieces):
    prompt = tokens(CHINESE)
    assert prompt.find(word) == [position for piece in pieces for position in prompt.of_piece(piece)]


@pytest.mark.parametrize("word", ["坐", "在垫", "狗", "红 的"])
def test_others_are_not(tokens, word):
    with pytest.raises(WordError, match=f"the prompt '{CHINESE}' has the words {CHINESE}"):
        tokens(CHINESE).find(word)


def test_one_that_stands_in_several_places_is_told(tokens):
    with pytest.raises(WordError, match=r"has it 2 times: 垫\[子\]上和, 和孩\[子\]. Write more"):
        tokens("垫子上和孩子").find("子")
    # Whole words are all taken, as in other scripts.
    prompt = tokens("猫, 一只猫, 猫")
    assert prompt.find("猫") == prompt.of_piece(0) + prompt.of_piece(6)


def test_beside_words_of_other_scripts(tokens):
    prompt = tokens("新iPhone手机 category")
    assert prompt.pieces == ("新", "iPhone", "手", "机", "category")
    assert prompt.find("iphone") == prompt.of_piece(1) and prompt.find("手机") == prompt.of_piece(2) + prompt.of_piece(3)
    with pytest.raises(WordError):
        prompt.find("cat")


def test_thai_and_japanese(tokens):
    assert tokens("แมวสีแดง").has("แดง") and tokens("แมวสีแดง").has("สีแดง") and not tokens("แมวสีแดง").has("สแดง")
    assert tokens("赤い猫が座っている").has("猫が")


def test_an_edit_of_a_stretch(tokens):
    source, target = tokens(CHINESE), tokens(CHINESE.replace("猫", "狗"))
    edit = Edit(None, "auto", {})
    assert kind_of(source, target, edit) == "replace"
    mixing = mix(source, target, edit, 0.8)
    assert set(mixing.take[:, target.find("狗")].any(1).nonzero().flatten().tolist()) == set(source.find("猫"))


@pytest.mark.parametrize(
    ("line", "source", "edited"),
    [
        ("猫 -> 狗", CHINESE, "一只红色的狗坐在垫子上"),
        ("红色的猫 -> 狗; 上 -> 下", CHINESE, "一只狗坐在垫子下"),
        ("猫 ->", CHINESE, "一只红色的坐在垫子上"),
        ("猫 -> 狗", "猫, 一只猫, 猫", "狗, 一只猫, 狗"),
        ("iphone -> 三星", "新iPhone手机", "新三星手机"),
        ("cat -> dog", "category, a cat", "category, a dog"),
        ("猫 -> 犬", "赤い猫が座っている <lora:猫:1>", "赤い犬が座っている <lora:猫:1>"),
    ],
)
def test_swaps(line, source, edited):
    assert parse_line(1, line).applied(source) == edited


@pytest.mark.parametrize(
    ("line", "source", "sentence"),
    [
        ("子 -> 人", "垫子上和孩子", r"Line 1: '子' is in the prompt 2 times: 垫\[子\]上和, 和孩\[子\]. Write more"),
        ("狗 -> 猫", CHINESE, "'狗' is not in the prompt; its words are 一只"),
        ("ส -> ก", "สี", "is not in the prompt"),
    ],
)
def test_swaps_that_cannot_be(line, source, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_line(1, line).applied(source)


def test_units_are_of_the_words():
    assert blankless.units("新iPhone手机") == ["新", "iPhone", "手", "机"] and blankless.units("cat") == ["cat"]
    assert blankless.parts("猫", [1], lambda token: None) == [("猫", [1])]
