"""Where words look: cross-attention maps of chosen tokens, summed over steps, and pictures of them.

A map of some tokens is attention whose values are 1 at these tokens and 0 elsewhere, so no kernel needs to hold whole maps for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..core.fields import SettingError
from ..core.rows import Row
from ..core.sites import Site
from .tokens import PromptTokens

RowKey = tuple[int, int]


def key_of(row: Row) -> RowKey:
    """(image, AND part)."""
    return (row.image, row.part)


class MapSums:
    """Maps by row and layer, summed over the calls of a pass, in float32. every_step: each step's are kept, too."""

    def __init__(self, every_step: bool = False) -> None:
        self.every_step = every_step
        self._sums: dict[tuple[RowKey, str], list[Any]] = {}
        self._steps: dict[tuple[RowKey, str, int], torch.Tensor] = {}

    def add(self, key: RowKey, site: Site, step: int, maps: torch.Tensor) -> None:
        """maps: [groups, h, w] of one row at one layer in one call."""
        kept = self._sums.get((key, site.name))
        if kept is None or kept[0].shape != maps.shape or kept[0].device != maps.device:
            self._sums[key, site.name] = [maps.float().clone(), 1]
        else:
            kept[0] += maps.float()
            kept[1] += 1
        if self.every_step:
            self._steps[key, site.name, step] = maps.float().clone()

    def mean(self, key: RowKey) -> torch.Tensor | None:
        """[groups, h, w]: the mean over layers and steps, on the finest grid seen; None when nothing was seen."""
        layers = [total / count for (row, _), (total, count) in self._sums.items() if row == key]
        return combine(layers) if layers else None

    def rows(self) -> list[RowKey]:
        return sorted({row for row, _ in self._sums})

    def by_step(self) -> dict[tuple[RowKey, str, int], torch.Tensor]:
        """(row, layer, step) -> [groups, h, w]; empty without ``every_step``."""
        return dict(self._steps)

    def clear(self) -> None:
        self._sums.clear()
        self._steps.clear()


def combine(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """[groups, h, w]: the mean of maps [groups, h_i, w_i], brought to the finest grid among them."""
    h, w = max((tuple(one.shape[-2:]) for one in maps), key=lambda grid: grid[0] * grid[1])
    same = [one if one.shape[-2:] == (h, w) else F.interpolate(one[None], (h, w), mode="bilinear", align_corners=False)[0] for one in maps]
    return torch.stack(same).mean(0)


def columns_of(tokens: int, groups: Iterable[Sequence[int]], like: torch.Tensor) -> torch.Tensor:
    """[tokens, groups]: 1 at the positions of each group. ``like``: dtype and device."""
    groups = list(groups)
    out = torch.zeros(tokens, len(groups), dtype=like.dtype, device=like.device)
    for number, positions in enumerate(groups):
        out[[p for p in positions if p < tokens], number] = 1
    return out


def word_maps(sums: MapSums, prompts: Sequence[PromptTokens], words: Iterable[str | int]) -> dict[str | int, torch.Tensor]:
    """Word -> [images, h, w] from sums over all tokens; a word's map is the sum over its tokens.

    prompts: one per image, or one for all; SettingError for another number. An image whose prompt lacks the word gets zeros; WordError
    when no prompt has it.
    """
    keys = [key for key in sums.rows() if key[1] == 0]
    prompt_of = {key: _prompt_of(key[0], keys, prompts) for key in keys}
    means = {key: sums.mean(key) for key in keys}
    out = {}
    for word in words:
        if not any(prompt.has(word) for prompt in prompts):
            prompts[0].find(word)
        out[word] = torch.stack([_map_of(means[key], prompt_of[key], word) for key in keys]) if keys else torch.zeros(0, 0, 0)
    return out


def word_maps_by_step(
    sums: MapSums, prompts: Sequence[PromptTokens], words: Iterable[str | int]
) -> dict[str | int, dict[tuple[int, str, int], torch.Tensor]]:
    """Word -> {(image, layer, step): [h, w]}, for images whose prompt has the word. prompts: as for `word_maps`."""
    keys = sums.rows()
    out: dict[str | int, dict[tuple[int, str, int], torch.Tensor]] = {}
    for word in words:
        if not any(prompt.has(word) for prompt in prompts):
            prompts[0].find(word)
        out[word] = {}
        for ((image, part), layer, step), maps in sums.by_step().items():
            prompt = _prompt_of(image, keys, prompts)
            if part == 0 and prompt.has(word):
                out[word][image, layer, step] = _map_of(maps, prompt, word)
    return out


def maps_of(sums: MapSums, config: Any, words: Sequence[str | int], every_step: bool) -> dict[str | int, Any] | None:
    """What a method with ``tokens`` and ``every_step`` kept of ``words``; see `Accelerator.heat_maps`. None when it watches none."""
    if not config.tokens:
        return None
    words = [words] if isinstance(words, (str, int)) else words
    if not every_step:
        return word_maps(sums, config.tokens, words)
    if config.every_step:
        return word_maps_by_step(sums, config.tokens, words)
    raise ValueError("The maps of single steps were not kept; give HeatMaps or PromptToPrompt every_step=True.")


def heat_picture(heat: torch.Tensor, picture: Any = None, size: tuple[int, int] | None = None) -> Any:
    """A map [h, w] as a picture, from dark blue to yellow, half over ``picture`` (a PIL image) if one is given. size: (width, height)."""
    import numpy as np
    from PIL import Image

    values = heat.detach().float().cpu()
    values = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)
    stops = torch.tensor([[13, 8, 80], [120, 20, 130], [220, 80, 70], [250, 230, 60]], dtype=torch.float32)
    place = values * (len(stops) - 1)
    low = place.long().clamp(max=len(stops) - 2)
    part = (place - low)[..., None]
    colours = stops[low] * (1 - part) + stops[low + 1] * part
    image = Image.fromarray(np.asarray(colours.round().to(torch.uint8)))
    size = picture.size if picture is not None else size
    image = image.resize(size, Image.BICUBIC) if size else image
    return Image.blend(picture.convert("RGB"), image, 0.5) if picture is not None else image


def _prompt_of(image: int, keys: Sequence[RowKey], prompts: Sequence[PromptTokens]) -> PromptTokens:
    """The prompt of a picture among ``keys``. Those of others would show where other words look. SettingError."""
    count = 1 + max(image for image, _ in keys)
    if len(prompts) == 1 or count <= len(prompts):
        return prompts[image if len(prompts) > 1 else 0]
    raise SettingError(f"tokens are of {len(prompts)} prompts, and there are {count} pictures; they must be one for each, or one for all.")


def _map_of(maps: torch.Tensor, prompt: PromptTokens, word: str | int) -> torch.Tensor:
    if not prompt.has(word):
        return torch.zeros_like(maps[0])
    return maps[[position for position in prompt.find(word) if position < len(maps)]].sum(0)
