"""The host's prompts as it will take them: styles put in, tags taken out, words as positions of the text encoder's chunks.

Nothing is encoded here; only tokenizers run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

from modules import extra_networks, prompt_parser, shared

from ...core.fields import SettingError
from ...prompt_to_prompt import PromptTokens, blankless, segmented
from ..host import facts
from ..host.comments import without_comments

_AND = re.compile(r"\bAND\b")
_TAG = re.compile(r"<\w+:[^<>]+>")
# Any number will do: what is scheduled shows itself by another text.
_STEPS = 50


def text_model(sd_model: Any) -> Any:
    """What tokenizes for ``sd_model``: its text encoder, or for SDXL the first of its two. SettingError for kinds without chunks (SD3)."""
    whole = getattr(sd_model, "cond_stage_model", None)
    # Forge's engines have theirs by themselves; the first of SDXL's is called so.
    engines = (getattr(sd_model, name, None) for name in ("text_processing_engine_l", "text_processing_engine"))
    for one in (whole, *(getattr(whole, "embedders", None) or ()), *engines):
        if hasattr(one, "tokenize_line") and hasattr(one, "chunk_length"):
            return one
    raise SettingError("Prompt-to-Prompt works with SD1.x, SD2.x and SDXL; this checkpoint has another text encoder.")


def with_styles(prompt: str, styles: Any) -> str:
    """The prompt with the job's styles."""
    return shared.prompt_styles.apply_styles_to_prompt(prompt, styles) if styles else prompt


def as_drawn(prompt: str, styles: Any = None) -> str:
    """The prompt as the host draws it: with the job's styles, whose comments it takes out, too. Tags are still in it."""
    return without_comments(with_styles(prompt, styles))


def taken_apart(prompt: str, negative: Any, styles: Any) -> str | None:
    """The negative prompt with the job's styles, if the host takes styles out of it where the picture of both prompts is pasted."""
    take = getattr(shared.prompt_styles, "extract_styles_from_prompt", None)
    if take is None or not isinstance(negative, str):
        return None
    whole = shared.prompt_styles.apply_negative_styles_to_prompt(negative, styles) if styles else negative
    return whole if take(prompt, whole)[2] != whole else None


def tags_of(prompt: str) -> list[str]:
    """The tags of LoRAs and the like, in order."""
    return _TAG.findall(prompt)


def without_tags(prompt: str) -> str:
    """What is left of a prompt when the host has taken those tags."""
    return extra_networks.parse_prompt(prompt)[0]


def unmarked(words: str) -> str:
    """Some words of a prompt without tags, and without the marks and numbers of emphasis."""
    parts = prompt_parser.parse_prompt_attention(without_tags(words))
    return "".join(text for text, weight in parts if (text, weight) != ("BREAK", -1)).strip()


def refused(prompt: str) -> str | None:
    """Why ``prompt`` (with styles) cannot be edited or be an edit, a clause; None where it can."""
    if _AND.search(prompt):
        return "AND joins several prompts, and only one prompt can be edited"
    for hires_steps in (None, _STEPS):
        (schedule,) = prompt_parser.get_learned_conditioning_prompt_schedules([prompt], _STEPS, hires_steps)
        if [text for _, text in schedule] != [prompt]:
            return "[a:b:0.5] and [a|b] change from step to step, and such a prompt cannot be edited"
    return None


def tokens_of(sd_model: Any, prompt: str) -> PromptTokens:
    """The token stream of ``prompt`` (with styles, without tags), as the host's own chunks have it.

    Emphasis, BREAK, embeddings and moved commas included. SettingError where it cannot be known.
    """
    if facts.option("use_old_emphasis_implementation", False):
        raise SettingError("Prompt-to-Prompt cannot find the words of a prompt while the option 'Use old emphasis implementation' is on.")
    model = text_model(sd_model)
    chunks = [(list(chunk.tokens)[1:-1], chunk.fixes) for chunk in model.tokenize_line(prompt)[0]]
    pieces, stream, joined = blankless.cut(*_pieces(model, prompt), _speller(model))
    owned = _owned(model, [(_content(tokens, model.id_end), fixes) for tokens, fixes in chunks], pieces, stream)
    if owned is None:
        # Something moved tokens in a way that we do not know: each is a word of its own.
        flat = [token for tokens, _ in chunks for token in _content(tokens, model.id_end)]
        numbers = iter(range(len(flat)))
        pieces, joined = [f"#{number}" for number in range(len(flat))], set()
        owned = [[(token, next(numbers)) for token in _content(tokens, model.id_end)] for tokens, _ in chunks]
    padding = model.id_end if getattr(model, "id_pad", None) is None else model.id_pad
    return PromptTokens.from_chunks(prompt, owned, pieces, (model.id_start, model.id_end, padding), model.chunk_length + 2, joined)


def padded(prompts: Sequence[str], sd_model: Any) -> list[str]:
    """The prompts with empty chunks behind the shorter ones, so that all are encoded to the same length. SettingError."""
    model = text_model(sd_model)

    def chunks_of(prompt: str) -> int:
        return len(model.tokenize_line(prompt)[0])

    chunks = [chunks_of(prompt) for prompt in prompts]
    most = max(chunks)
    longer = []
    for prompt, count in zip(prompts, chunks):
        # The first BREAK ends the last chunk, unless the prompt ends with one; each further one is an empty chunk.
        tried = (prompt + " BREAK" * (most - count + more) for more in (1, 0)) if count < most else (prompt,)
        longer += [text for text in tried if chunks_of(text) == most][:1]
    if len(longer) < len(prompts):
        raise SettingError(
            f"The prompts are {min(chunks)} to {most} chunks of tokens long and could not be padded to the same length "
            "(the option 'Emphasis mode: None' or an open bracket does that); make them about as long."
        )
    return longer


def _content(tokens: Sequence[int], end: int) -> list[int]:
    """A chunk's tokens without the padding behind them."""
    count = len(tokens)
    while count and tokens[count - 1] == end:
        count -= 1
    return list(tokens[:count])


def _pieces(model: Any, prompt: str) -> tuple[list[str], list[tuple[int, int]]]:
    """The prompt's words and punctuation, and its tokens in order, each with the number of its piece."""
    parts = [[prompt, 1.0]] if facts.option("emphasis", "Original") == "None" else prompt_parser.parse_prompt_attention(prompt)
    pieces: list[str] = []
    stream: list[tuple[int, int]] = []
    for text, weight in parts:
        if text == "BREAK" and weight == -1:
            continue
        found, tokens = segmented(text, lambda words: model.tokenize([words])[0])
        stream += [(token, len(pieces) + number) for token, number in tokens]
        pieces += found
    return pieces, stream


def _speller(model: Any) -> Any:
    """How the vocabulary of ``model`` spells a token; None where it cannot be asked."""
    for tokenizer in (getattr(getattr(model, "wrapped", None), "tokenizer", None), getattr(model, "tokenizer", None)):
        if hasattr(tokenizer, "convert_ids_to_tokens"):
            return tokenizer.convert_ids_to_tokens
    # OpenCLIP's belongs to the module.
    tokenizer = getattr(sys.modules.get(type(model).__module__), "tokenizer", None)
    return getattr(getattr(tokenizer, "decoder", None), "get", None)


def _owned(
    model: Any, chunks: list[tuple[list[int], Any]], pieces: list[str], stream: list[tuple[int, int]]
) -> list[list[tuple[int, int]]] | None:
    """Every chunk's (token, piece); None when the chunks hold other tokens than ``stream``.

    An embedding's positions are its name's, which becomes one piece in ``pieces``: the host reads it as one, whatever is in it.
    """
    owned: list[list[tuple[int, int]]] = []
    at = 0
    for tokens, fixes in chunks:
        starts = {fix.offset: fix.embedding for fix in fixes}
        mine: list[tuple[int, int]] = []
        while len(mine) < len(tokens):
            if at >= len(stream):
                return None
            embedding = starts.get(len(mine))
            token, piece = stream[at]
            if embedding is not None:
                name = len(model.tokenize([embedding.name])[0])
                around = {number for _, number in stream[:at] + stream[at + name :]}
                for number in {number for _, number in stream[at : at + name]} - around:
                    pieces[number] = embedding.name if number == piece else ""
                mine += [(tokens[place], piece) for place in range(len(mine), min(len(mine) + int(embedding.vectors), len(tokens)))]
                at += name
            elif tokens[len(mine)] == token:
                mine.append((token, piece))
                at += 1
            else:
                return None
        owned.append(mine)
    return owned if at == len(stream) else None
