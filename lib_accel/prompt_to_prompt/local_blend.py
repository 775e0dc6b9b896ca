"""Local blend: an edit is confined to where its words are. Pure: maps to masks, masks on latents (or on predictions of them) and pictures.

Source: Prompt-to-Prompt Image Editing with Cross Attention Control (Hertz et al., arXiv 2208.01626), section 4; its released LocalBlend
and the variant with words to leave out of the null-text notebook. Differences: any number of prompts, grids that are not square, several
grids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..core.fields import SettingError, check, setting
from .tokens import PromptTokens, WordError


@dataclass(frozen=True)
class LocalBlend:
    """What an edit is confined to. SettingError when a value cannot be.

    source: words (or phrases, or numbers) of the source prompt whose places may change. edited: those of the edited prompts; of several,
    each prompt's are those that it has. Empty: ``source``, where an edited prompt has them. subtract: words whose places must not change.
    threshold, subtract_threshold: share of the largest value from which a place counts, 0 to 1. start: fraction of the pass before which
    nothing is blended, 0 (always) to 1.
    """

    source: tuple[str | int, ...]
    edited: tuple[str | int, ...] = ()
    subtract: tuple[str | int, ...] = ()
    threshold: float = setting(0.3, "number", "Blend threshold", "higher: a smaller place may change", 0, 1)
    subtract_threshold: float = setting(0.3, "number", "Subtract threshold", "higher: a smaller place is kept", 0, 1)
    start: float = setting(0.2, "number", "Blend start", "higher: the composition may change more", 0, 1)

    def __post_init__(self) -> None:
        for name in ("source", "edited", "subtract"):
            words = getattr(self, name)
            words = tuple(words) if isinstance(words, (tuple, list)) else (words,)
            if any(isinstance(word, bool) or not isinstance(word, (str, int)) for word in words):
                raise SettingError(f"LocalBlend.{name} is {words!r}; it must be words, or numbers of words.")
            object.__setattr__(self, name, words)
        if not self.source:
            raise SettingError("LocalBlend.source is (); it must be one word of the source prompt or more.")
        check(self)

    def aligned(self, prompts: Sequence[PromptTokens], strict: bool = True) -> AlignedBlend:
        """For a batch whose image 0 has the source prompt, ``prompts[0]``, and whose others are edited. WordError.

        strict: every word of ``edited`` and ``subtract`` must be in some prompt; not so for a part of a larger set of edits.
        """
        for words, among in ((self.edited, prompts[1:]), (self.subtract, prompts)) if strict else ():
            for word in words:
                if among and not any(prompt.has(word) for prompt in among):
                    among[0].find(word)
        columns = {(0, 0): WordColumns(_positions(prompts[0], self.source), self._subtracted(prompts[0]))}
        for image, prompt in enumerate(prompts[1:], 1):
            columns[image, 0] = WordColumns(self._positions_in(prompt), self._subtracted(prompt))
        return AlignedBlend(columns, self.threshold, self.subtract_threshold, self.start)

    def _positions_in(self, prompt: PromptTokens) -> tuple[int, ...]:
        words = [word for word in self.edited or self.source if prompt.has(word)] or [word for word in self.source if prompt.has(word)]
        if not words:
            wanted = ", ".join(map(repr, self.edited or self.source))
            raise WordError(f"LocalBlend.edited is {wanted}; the prompt {prompt.text!r} has the words {', '.join(prompt.words)}.")
        return _positions(prompt, words)

    def _subtracted(self, prompt: PromptTokens) -> tuple[int, ...]:
        return tuple(position for word in self.subtract if prompt.has(word) for position in prompt.find(word))


@dataclass(frozen=True)
class WordColumns:
    """Token positions whose maps make the masks of one row."""

    blend: tuple[int, ...]
    subtract: tuple[int, ...] = ()


@dataclass(frozen=True)
class AlignedBlend:
    """A local blend as the method takes it. columns: (image, AND part) -> positions, for sources and edited images.

    threshold, subtract_threshold, start: as in `LocalBlend`. layers: see `layers`; of larger pictures at least the coarsest.
    """

    columns: dict[tuple[int, int], WordColumns]
    threshold: float = 0.3
    subtract_threshold: float = 0.3
    start: float = 0.2
    layers: str = "1024"


def word_mask(heat: torch.Tensor, size: tuple[int, int], threshold: float, pool: bool = True) -> torch.Tensor:
    """[H, W] of 0 and 1: where a map [h, w] exceeds ``threshold`` times its maximum. size: (H, W). pool: grown by one place before."""
    values = heat[None, None].float()
    if pool:
        values = F.max_pool2d(values, 3, 1, 1)
    values = F.interpolate(values, size)[0, 0]
    return (values / values.max().clamp(min=1e-12) > threshold).to(values.dtype)


def edit_mask(source: torch.Tensor, edited: torch.Tensor, size: tuple[int, int], blend: AlignedBlend) -> torch.Tensor:
    """[H, W] of 0 and 1: where an edited image may differ. source, edited: [2, h, w], maps of the words and of those to leave out."""
    mask = torch.maximum(word_mask(source[0], size, blend.threshold), word_mask(edited[0], size, blend.threshold))
    for maps in (source, edited):
        if bool(maps[1].any()):
            mask = mask * (1 - word_mask(maps[1], size, blend.subtract_threshold, pool=False))
    return mask


def blended(edited: torch.Tensor, source: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``edited`` where ``mask`` is 1, exactly ``source`` where it is 0. Latents, or predictions of them: [channels, H, W]; mask [H, W]."""
    mask = mask.to(edited)
    return torch.where(mask == 0, source, source + mask * (edited - source))


def feathered(mask: torch.Tensor, size: tuple[int, int], width: int = 4) -> torch.Tensor:
    """[H, W] in 0..1: a latent mask brought to pixels, with a soft edge of ``width`` pixels outside it. size: (H, W)."""
    values = F.interpolate(mask[None, None].float(), size)
    if width > 0:
        values = F.max_pool2d(values, 2 * width + 1, 1, width)
        padded = F.pad(values, (width,) * 4, mode="replicate")
        values = F.avg_pool2d(padded, 2 * width + 1, 1)
    return values[0, 0]


def composite(edited: Any, source: Any, mask: torch.Tensor, width: int = 4) -> Any:
    """The PIL picture ``edited`` inside the feathered ``mask`` [h, w], and the pixels of ``source`` outside it."""
    import numpy as np
    from PIL import Image

    if edited.size != source.size:
        raise SettingError(
            f"source picture is {source.size[0]}x{source.size[1]}; it must be {edited.size[0]}x{edited.size[1]}, as the edited one."
        )
    soft = feathered(mask.cpu(), (edited.height, edited.width), width).numpy()[..., None]
    new, old = (np.asarray(picture.convert("RGB"), dtype=np.float32) for picture in (edited, source))
    return Image.fromarray((old + soft * (new - old) + 0.5).clip(0, 255).astype(np.uint8))


def _positions(prompt: PromptTokens, words: Sequence[str | int]) -> tuple[int, ...]:
    return tuple(position for word in words for position in prompt.find(word))
