"""Prompts of diffusers' pipelines: their token streams, and their embeddings when they are longer than one chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..prompt_to_prompt.segmenting import tokenize
from ..prompt_to_prompt.tokens import PromptTokens, equally_long
from .reach import execution_device


def tokens_for(pipe: Any, prompts: str | Sequence[str]) -> list[PromptTokens]:
    """The token streams of ``prompts``, as the pipeline's tokenizer makes them. SDXL's two encoders share their positions."""
    tokenizer = _encoders(pipe)[0][0]
    return [_stream(pipe, tokenizer, prompt) for prompt in ([prompts] if isinstance(prompts, str) else prompts)]


def embeddings(
    pipe: Any, prompts: Sequence[str], negative: str, lora_scale: float | None = None, chunks: int = 1
) -> dict[str, torch.Tensor]:
    """What a pipeline is called with in place of ``prompts`` and a negative prompt for each: prompt_embeds, negative_prompt_embeds, and
    for SDXL the pooled ones. Every chunk of 77 goes through the text encoder alone, shorter texts are padded by the empty prompt's.
    lora_scale: of LoRAs in the text encoders, as a pipeline has it from its call; None: as they are.
    """
    with _scaled([encoder for _, encoder in _encoders(pipe)], lora_scale):
        return _embeddings(pipe, prompts, negative, chunks)


def _embeddings(pipe: Any, prompts: Sequence[str], negative: str, chunks: int) -> dict[str, torch.Tensor]:
    count = len(prompts)
    found: list[torch.Tensor] = []
    pooled = None
    for tokenizer, encoder in _encoders(pipe):
        streams = [stream.padded(chunks) for stream in equally_long(_stream(pipe, tokenizer, prompt) for prompt in [*prompts, negative])]
        ids = torch.tensor([stream.ids for stream in streams], device=execution_device(pipe))
        ids = ids.unflatten(1, (streams[0].chunks, streams[0].chunk))
        hidden, pool = _encode(pipe, encoder, ids.flatten(0, 1))
        found.append(hidden.unflatten(0, ids.shape[:2]).flatten(1, 2))
        # The second encoder's, of the first chunk, as the host of long prompts has it.
        pooled = pool if pool is None else pool.unflatten(0, ids.shape[:2])[:, 0]
    embeds = torch.cat(found, -1).to(pipe.unet.dtype)
    given = {"prompt_embeds": embeds[:count], "negative_prompt_embeds": embeds[count:].expand(count, -1, -1)}
    if pooled is not None:
        pooled = pooled.to(pipe.unet.dtype)
        given |= {"pooled_prompt_embeds": pooled[:count], "negative_pooled_prompt_embeds": pooled[count:].expand(count, -1)}
        if not negative and getattr(pipe.config, "force_zeros_for_empty_prompt", False):
            given |= {name: torch.zeros_like(value) for name, value in given.items() if name.startswith("negative")}
    return given


@contextmanager
def _scaled(encoders: Sequence[Any], scale: float | None) -> Iterator[None]:
    """What a pipeline does around its own encoding; it is undone as there."""
    from diffusers.utils import USE_PEFT_BACKEND, scale_lora_layers, unscale_lora_layers

    scaled = encoders if scale is not None and USE_PEFT_BACKEND else ()
    for encoder in scaled:
        scale_lora_layers(encoder, scale)
    try:
        yield
    finally:
        for encoder in scaled:
            unscale_lora_layers(encoder, scale)


def _encoders(pipe: Any) -> list[tuple[Any, Any]]:
    """(tokenizer, text encoder), those that the pipeline has."""
    pairs = [(getattr(pipe, f"tokenizer{n}", None), getattr(pipe, f"text_encoder{n}", None)) for n in ("", "_2")]
    return [pair for pair in pairs if None not in pair]


def _stream(pipe: Any, tokenizer: Any, prompt: str) -> PromptTokens:
    convert = getattr(pipe, "maybe_convert_prompt", None)

    def encode(text: str) -> Sequence[int]:
        text = convert(text, tokenizer) if convert else text
        return tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))  # Calling it would warn about long texts.

    specials = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return tokenize(prompt, encode, specials, tokenizer.model_max_length, tokenizer.convert_ids_to_tokens)


def _encode(pipe: Any, encoder: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Hidden states and, of SDXL's encoders, the pooled ones (None for the others)."""
    with torch.no_grad():
        if hasattr(pipe, "text_encoder_2"):
            out = encoder(ids, output_hidden_states=True)
            return out.hidden_states[-2], out[0]
        return encoder(ids)[0], None
