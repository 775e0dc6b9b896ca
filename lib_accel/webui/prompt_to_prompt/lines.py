"""The grammar of the edit lines: one edit per line, made of parts with ``;`` between them.

a photo of a lion                a whole new prompt
squirrel -> lion                 words of the source are swapped, wherever they stand; nothing behind the arrow takes them out
+ pea soup with croutons         words are added at the end
smiling*1.8   sad face*-1        words of the edited prompt get more or less attention, or are pushed away
cat -> dog*1.5; + hat; red*.5    several of these; the first part may also be a whole new prompt
= a -> b; c*2                    a whole new prompt as it stands, whatever is in it
b*2; = a -> b; c*2               weights may stand before it
# a remark                       passed over, as empty lines are
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from ...core.fields import SettingError
from ...prompt_to_prompt import blankless, split_words

_ARROW = re.compile(r"\s*(?:->|→)\s*")
# Also as Chinese and Japanese keyboards write it.
_SEMICOLON = re.compile("[;\uff1b]")
NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
_WEIGHT = re.compile(rf"([^*]+?)\s*\*\s*({NUMBER})(?=[\s,]|$)[\s,]*")
# Tags of LoRAs and the like, which words are not looked for in.
_TAG = re.compile(r"(<[^<>]*>)")
_LAST_TAGS = re.compile(r"(?:\s*<[^<>]*>)*\s*$")
LITERAL = "if the line is a whole prompt, begin it with ="


@dataclass(frozen=True)
class Line:
    """One edit. number: its line in the box, from 1. text: as written. prompt: a whole new prompt, or None. weights: word -> factor."""

    number: int
    text: str
    prompt: str | None = None
    swaps: tuple[tuple[str, str], ...] = ()
    additions: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)

    def applied(self, source: str) -> str:
        """The edited prompt. SettingError when a word to swap is not in ``source``."""
        if self.prompt is not None and not self.swaps and not self.additions:
            return self.prompt
        text = _swapped(source if self.prompt is None else self.prompt, self.swaps, self.number)
        for addition in self.additions:
            tags = _LAST_TAGS.search(text)
            before = text[: tags.start()].rstrip().rstrip(",")
            text = f"{before}, {addition}{tags[0]}" if before else f"{addition}{tags[0]}"
        return text

    def weighing(self, weights: Mapping[str, float]) -> str:
        """This line as it is written with other weights."""
        if dict(weights) == dict(self.weights):
            return self.text
        if self.prompt is not None and not _is_plain(self.prompt):
            return self.literally(self.prompt, weights)
        weighed = _weighing(weights)
        parts = [f"{old} -> {new}" for old, new in self.swaps] + [f"+ {addition}" for addition in self.additions]
        return "; ".join([*([self.prompt] if self.prompt is not None else []), *parts, *weighed])

    def literally(self, prompt: str, weights: Mapping[str, float]) -> str:
        """A line that makes ``prompt``, whatever is in it, of every source."""
        return "; ".join([*_weighing(weights), "= " + " ".join(prompt.splitlines())])


def parse_lines(text: str) -> list[Line]:
    """The edits of the box. SettingError naming the line that cannot be."""
    lines = [(number, line.strip()) for number, line in enumerate(str(text).splitlines(), 1)]
    return [parse_line(number, line) for number, line in lines if line and not line.startswith("#")]


def parse_line(number: int, text: str) -> Line:
    """One line. SettingError."""
    literal = _literal(text)
    if literal is not None:
        before, prompt = literal
        if not prompt:
            raise SettingError(f"Line {number} is {text!r}; a prompt must follow the =.")
        return Line(number, text, prompt, weights=_product(_weights(number, part) for part in before))
    parts = [part.strip() for part in _SEMICOLON.split(text) if part.strip()]
    if not any(_is_special(part) for part in parts):
        return Line(number, text, prompt=text)
    prompt, swaps, additions, weights = None, [], [], {}
    for place, part in enumerate(parts):
        if _ARROW.search(part):
            sides = _ARROW.split(part)
            if len(sides) != 2 or not split_words(sides[0]):
                raise SettingError(f"Line {number} has {part!r}; a swap is: words -> words; {LITERAL}.")
            new, its_weights = _weighted(number, sides[1])
            swaps.append((sides[0].strip(), new))
        elif part.startswith("+"):
            new, its_weights = _weighted(number, part[1:].strip())
            if not split_words(new):
                raise SettingError(f"Line {number} has {part!r}; words must follow the +.")
            additions.append(new)
        elif "*" in part:
            its_weights = _weights(number, part)
        elif place == 0:
            prompt, its_weights = part, {}
        else:
            raise SettingError(
                f"Line {number} has {part!r} after a ;, which is not a swap (->), an addition (+) or a weight (word*number); {LITERAL}."
            )
        weights = _product([weights, its_weights])
    return Line(number, text, prompt, tuple(swaps), tuple(additions), weights)


def weights_of(name: str, text: str) -> dict[str, float]:
    """``word*number``, one or several. SettingError naming ``name``."""
    found, at = {}, 0
    while at < len(text):
        one = _WEIGHT.match(text, at)
        word = one and one[1].strip(" ,+=")
        if not word or not split_words(word) or not math.isfinite(float(one[2])):
            raise SettingError(f"{name} is {text!r}; a weight is a word, * and a number, as in smiling*1.8; {LITERAL}.")
        found[word] = found.get(word, 1.0) * float(one[2])
        at = one.end()
    return found


def _literal(text: str) -> tuple[list[str], str] | None:
    """The weights before an = and the prompt behind it; None where there is no = with nothing but weights before it."""
    before: list[str] = []
    rest = text.strip()
    while not rest.startswith("="):
        part, *behind = (piece.strip() for piece in _SEMICOLON.split(rest, maxsplit=1))
        if not behind or (part and not _is_weight(part)):
            return None
        (rest,) = behind
        before += [part] if part else []
    return before, rest[1:].strip()


def _product(several: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """A word that is weighted twice gets the product."""
    whole: dict[str, float] = {}
    for weights in several:
        for word, weight in weights.items():
            whole[word] = whole.get(word, 1.0) * weight
    return whole


def _weighing(weights: Mapping[str, float]) -> list[str]:
    return [f"{word}*{digits(weight)}" for word, weight in weights.items()]


def digits(number: float) -> str:
    """All of its digits, in a form that `NUMBER` takes."""
    return f"{Decimal(repr(number)):f}".removesuffix(".0")


def _is_special(part: str) -> bool:
    return bool(_ARROW.search(part)) or part.startswith("+") or "*" in part


def _is_weight(part: str) -> bool:
    return "*" in part and not part.startswith("+") and not _ARROW.search(part)


def _is_plain(prompt: str) -> bool:
    """Whether a whole prompt is one without an = in front."""
    return not _is_special(prompt) and not _SEMICOLON.search(prompt) and not prompt.startswith(("=", "#"))


def _weights(number: int, part: str) -> dict[str, float]:
    return weights_of(f"Line {number}", part)


def _weighted(number: int, text: str) -> tuple[str, dict[str, float]]:
    """Words, with a weight behind them or without: (the words, their weights)."""
    if "*" not in text:
        return text, {}
    weights = _weights(number, text)
    if len(weights) != 1:
        raise SettingError(f"Line {number} has {text!r}; only one weight can follow there; put a ; before the others.")
    return next(iter(weights)), weights


def _swapped(source: str, swaps: tuple[tuple[str, str], ...], number: int) -> str:
    """All swaps at once, so that two words can change places."""
    if not swaps:
        return source
    tagless = "\n".join(_TAG.split(source)[::2])
    patterns = [_found(old, tagless, number) for old, _ in swaps]
    # The longest first: "red car" before "car".
    order = sorted(range(len(swaps)), key=lambda place: -len(swaps[place][0]))
    whole = re.compile("|".join(f"(?P<swap{place}>{patterns[place]})" for place in order), re.IGNORECASE)
    pieces = _TAG.split(source)
    pieces[::2] = [whole.sub(lambda found: swaps[int(found.lastgroup[4:])][1], piece) for piece in pieces[::2]]
    text = "".join(pieces)
    if any(not new for _, new in swaps):
        text = re.sub(r" {2,}", " ", re.sub(r" +,", ",", text)).strip()
    return text


def _found(old: str, prompt: str, number: int) -> str:
    """A pattern for ``old``: whole words wherever they stand, else one stretch in a script without blanks. SettingError."""
    if re.search(_pattern(old), prompt, re.IGNORECASE):
        return _pattern(old)
    pattern = blankless.stretch(old)
    places = [found.span() for found in re.finditer(pattern, prompt, re.IGNORECASE)]
    if not places:
        words = ", ".join(dict.fromkeys(word for word in split_words(prompt) if any(c.isalnum() for c in word)))
        raise SettingError(f"Line {number}: {old!r} is not in the prompt; its words are {words or '(none)'}.")
    if len(places) > 1:
        shown = ", ".join(f"{prompt[max(0, a - 2) : a]}[{prompt[a:b]}]{prompt[b : b + 2]}" for a, b in places)
        raise SettingError(f"Line {number}: {old!r} is in the prompt {len(places)} times: {shown}. Write more of the one you mean.")
    return pattern


def _pattern(words: str) -> str:
    """Finds ``words`` as whole words, with any blanks between them. Marks around a word are none of its letters, nor is an underscore."""
    inner = r"\s+".join(re.escape(word) for word in words.split())
    before = r"(?<![^\W_])(?<![^\W_]_)" if re.match(r"[^\W_]", words) else ""
    return before + inner + (r"(?!_?[^\W_])" if re.search(r"[^\W_]$", words) else "") + blankless.UNMARKED
