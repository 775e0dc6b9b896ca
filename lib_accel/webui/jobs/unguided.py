"""Leaving the negative prompt's rows out of one step of the host, from its callback `on_cfg_denoiser`, before it makes its batches.

The host has no flag for it. Its batch is cut to the rows that run, the other text is given without rows, and for this one call the
denoiser's `combine_denoised` puts rows in the place of the missing ones, as the host does where it skips them itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...core.reasons import Reason
from ...core.rows import shares_of
from ..host import facts, interceptors
from ..host.rows import host_skips_uncond, is_edit, parts_of

# Of a picture, by its number: the direction that it is guided by all the same, as predicted noise [channels, h, w]; None for none.
Direction = Callable[[int], Any]


def shield_from_host(denoiser: Any, params: Any) -> None:
    """Where the host skips the negative prompt itself it forgets the image conditioning's rows, and inpainting models fail."""
    parts = parts_of(denoiser)
    if not parts or is_edit(denoiser) or not host_skips_uncond(denoiser, params):
        return
    if params.x.shape[0] == params.image_cond.shape[0] == sum(parts) + len(parts):
        params.image_cond = params.image_cond[: sum(parts)]


def why_guided(denoiser: Any, parts: Sequence[int]) -> str | None:
    """Why the host needs the negative prompt's prediction (a clause), or None: then its rows may be left out."""
    if not hasattr(denoiser, "combine_denoised"):
        return Reason.of("combines_its_own_way", "this host combines predictions in its own way")
    if getattr(denoiser, "need_last_noise_uncond", False):
        return Reason.of("cfg_plus_plus", "the sampler needs the negative prompt's prediction (CFG++)")
    previews = facts.option("live_preview_content", "Prompt") == "Negative prompt"
    if previews and hasattr(denoiser, "alphas") and any(count != 1 for count in parts):
        return Reason.of("negative_previews", "live previews show the negative prompt of an AND prompt")
    # What others make of AND prompts without a negative prompt is no sum.
    by_others = interceptors.combiner(denoiser, parts) if any(count != 1 for count in parts) else None
    return by_others or interceptors.reader()


class Unguided:
    """One step without guidance. Everything is prepared first and put into ``params`` at once; `restore` may be called at any time.

    parts: AND sub-prompts of each picture. branch: whose text is used, ``cond`` or ``uncond``. direction: see `Direction`.
    """

    def __init__(self, denoiser: Any, params: Any, parts: Sequence[int], branch: str, direction: Direction) -> None:
        rows = sum(parts)
        text, other = params.text_cond, params.text_uncond
        kept: Any = slice(rows)
        if branch == "uncond":
            # A row for each sub-prompt all the same: that is what the host counts on.
            images = [image for image, count in enumerate(parts) for _ in range(count)]
            text, other, kept = _taken(other, images), text, [rows + image for image in images]
        self._denoiser = denoiser
        self._had = "combine_denoised" in vars(denoiser)
        self._combine = denoiser.combine_denoised
        self._uncond = params.text_uncond
        self._directions = [direction(image) for image in range(len(parts))]
        sigma = params.sigma[: len(params.x)]
        # What a denoiser returns is the picture, x - sigma * noise; the one for timesteps returns the noise.
        self._unit = torch.ones_like(sigma[kept]) if hasattr(denoiser, "alphas") else -sigma[kept]
        # As long as the text that runs, so that all goes into one call; with padding as long as it was, so that the text stays padded.
        pads = facts.option("pad_cond_uncond", False) or facts.option("pad_cond_uncond_v0", False)
        nothing = _taken(other if pads else text, slice(0))
        params.x, params.sigma, params.image_cond, params.text_cond, params.text_uncond = (
            params.x[kept],
            sigma[kept],
            params.image_cond[kept],
            text,
            nothing,
        )
        denoiser.combine_denoised = self._combined

    def restore(self) -> None:
        """The denoiser combines as it did. Does nothing the second time, or when somebody else took over meanwhile."""
        if vars(self._denoiser).get("combine_denoised") != self._combined:
            return
        if self._had:
            self._denoiser.combine_denoised = self._combine
        else:
            del self._denoiser.combine_denoised

    def _combined(self, x_out: torch.Tensor, conds_list: Any, uncond: Any, cond_scale: float, *more: Any, **named: Any) -> Any:
        """``x_out`` has no rows of the negative prompt. Whoever combines is given some that make the result unguided."""
        self.restore()
        guided = any(direction is not None for direction in self._directions)
        rows, combined = zip(*(self._unguided(x_out, parts, direction) for parts, direction in zip(conds_list, self._directions)))
        scale = cond_scale if guided else 1.0
        return self._combine(torch.cat([x_out, torch.stack(rows)]), list(combined), self._uncond, scale, *more, **named)

    def _unguided(self, x_out: torch.Tensor, parts: Any, direction: torch.Tensor | None) -> tuple[torch.Tensor, Any]:
        """A row in the negative prompt's place, and the parts of one picture's prompt with the weights to combine them with: whatever the
        scale that leads to the mean of the parts, or, with a direction, to what guidance in it makes of them."""
        numbers = [row for row, _ in parts]
        if len(numbers) == 1:
            mean = x_out[numbers[0]]
        else:
            shares = shares_of([weight for _, weight in parts])
            mean = sum(share * x_out[row] for share, row in zip(shares, numbers))
        if direction is None or direction.shape[1:] != mean.shape[1:]:
            # The parts' own weights would count one part more than its share where they do not add up to 1.
            return mean, parts if len(numbers) == 1 else list(zip(numbers, shares))
        guided = mean.clone()
        guided[: direction.shape[0]] -= (self._unit[numbers[0]].to(direction) * direction).to(mean)
        return guided, parts


def _taken(text: Any, rows: Any) -> Any:
    """Some rows of a conditioning: a tensor, or for SDXL the host's dictionary of tensors, whose class has to stay."""
    if not isinstance(text, dict):
        return text[rows]
    taken = copy.copy(text)
    for key, value in text.items():
        taken[key] = value[rows]
    return taken
