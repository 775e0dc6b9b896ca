"""One batch of the host at work: picture 0 is the source's, picture k + 1 that of cell k. The session asks it at every moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ...core.fields import SettingError
from ...methods import ImageEdit, PromptToPrompt
from ...ops.precision import finest
from ...prompt_to_prompt import Mixing, PromptTokens, blended, mix
from ...prompt_to_prompt.edits import equalizer
from ...prompt_to_prompt.windows import token_windows
from ...settings.passes import FIRST, HIRES
from ..host.family import family
from . import host_text, values
from .checking import Edits
from .controls import CROSS, SELF, TITLE
from .grid import Cell

OTHERS = f"{TITLE}: nothing edited, because another extension changed the prompts after the edits were prepared"


class EditedBatch:
    """See the module. heat: word -> [pictures, h, w], of the first pass, when it is over."""

    def __init__(self, edits: Edits, cells: Sequence[Cell]) -> None:
        self.edits, self.cells = edits, tuple(cells)
        self.heat: dict[Any, torch.Tensor] = {}
        self._masks: dict[int, torch.Tensor] = {}
        self._streams: list[PromptTokens] = []
        self._accelerator: Any = None
        self._place = FIRST
        self._size: tuple[int, int] | None = None
        self._latents: tuple[torch.Tensor, torch.Tensor] | None = None
        self._denoiser: Any = None
        self._crop = (0, 0)

    # -- before a pass -------------------------------------------------------------------------------------------------------

    def pad(self, p: Any) -> None:
        """The host is about to encode the prompts: to the same length, in every batch, since the source is in every one."""
        all_of_them = [stream.text for stream in self.edits.streams]
        for name in ("prompts", "hr_prompts"):
            prompts = getattr(p, name, None)
            if prompts:
                setattr(p, name, host_text.padded([*prompts, *all_of_them], p.sd_model)[: len(prompts)])

    def methods(self, p: Any, place: str) -> tuple[tuple[Any, ...], str | None]:
        """What the pass ``place`` runs, and why it is nothing (a clause), if so."""
        self._place, self._accelerator, self._crop = place, None, hires_crop(p)
        prompts = (getattr(p, "hr_prompts", None) if place == HIRES else None) or p.prompts
        if len(prompts) != 1 + len(self.cells):
            return (), f"{TITLE}: nothing edited, the batch has {len(prompts)} pictures and not {1 + len(self.cells)}"
        try:
            self._streams = [host_text.tokens_of(p.sd_model, prompt) for prompt in prompts]
            if not self._are_edited(prompts):
                return (), OTHERS
            return self._method(self._streams, place)
        except SettingError:
            # Not the error: it names words, and an account holds no prompt.
            return (), OTHERS

    def _are_edited(self, prompts: Sequence[str]) -> bool:
        """Whether the prompts differ from the source's where the edits do."""
        texts = [f"{stream.text}{padding}".split() for stream, padding in zip(self.edits.streams, self.edits.padding)]
        asked = [texts[1 + cell.line] != texts[0] for cell in self.cells]
        return all(prompt != prompts[0] for prompt, differs in zip(prompts[1:], asked) if differs)

    def _method(self, streams: Sequence[PromptTokens], place: str) -> tuple[tuple[Any, ...], str | None]:
        s = self.edits.settings
        whole = place == FIRST or s["hires"]
        made = [self._edit(image, cell, streams, whole) for image, cell in enumerate(self.cells, 1) if cell.control]
        edits = [edit for edit in made if edit is not None]
        if not edits:
            return (), f"{TITLE}: no word has a weight here, so only the edited prompts act" if made else None
        blend = self.edits.local_blend(self.cells[0].threshold) if place == FIRST else None
        return (
            PromptToPrompt(
                tuple(edits),
                blend=blend.aligned(streams, strict=False) if blend is not None else None,
                cross_layers=s["cross_layers"],
                self_layers=s["self_layers"],
                self_source=None if s["self_source"] == "none" else s["self_source"],
                tokens=tuple(streams) if place == FIRST and self.edits.heat_words() else (),
            ),
        ), None

    def _edit(self, image: int, cell: Cell, streams: Sequence[PromptTokens], whole: bool) -> ImageEdit | None:
        """whole: all of the edit; else re-weighting alone, None without any."""
        cross = values.windows(f"{TITLE}: {CROSS}", cell.cross)
        edit = self.edits.edit_of(cell)
        if whole:
            mixing = mix(streams[0], streams[image], edit, cross, missing_ok=True)
            return ImageEdit(image, 0, (mixing,), values.window(f"{TITLE}: {SELF}", cell.self_))
        if not edit.weights:
            return None
        keep = equalizer(streams[image], edit.weights)
        windows = token_windows(streams[image], cross, missing_ok=True)
        return ImageEdit(image, 0, (Mixing(torch.zeros(len(keep), len(keep)), keep, torch.ones_like(keep), windows),), 0.0)

    # -- a step --------------------------------------------------------------------------------------------------------------

    def before_step(self, accelerator: Any, denoiser: Any, params: Any) -> None:
        """The host's callback `on_cfg_denoiser`, before anybody takes rows away."""
        count = 1 + len(self.cells)
        self._accelerator, self._denoiser = accelerator, denoiser
        self._size = tuple(params.x.shape[-2:])
        # DDIM and the like are given noise to go by; the picture in it has to be worked out.
        by_noise = _returns_noise(denoiser)
        self._latents = (params.x[:count], params.sigma[:count]) if by_noise and params.x.shape[0] >= count else None

    def after_step(self, params: Any) -> None:
        """The host's callback `on_cfg_after_cfg`: local blend, on the picture that this step predicts."""
        x = params.x
        masks = self._masks_now(tuple(x.shape[-2:])) if x.shape[0] == 1 + len(self.cells) else {}
        if not masks:
            return
        if not _returns_noise(self._denoiser):
            params.x = _blend(x, masks)
        elif self._latents is not None:
            latents, timesteps = self._latents
            fine = finest(x.device.type)
            alpha = self._denoiser.alphas.to(x.device)[timesteps.to(x.device, torch.long)].to(fine)[:, None, None, None]
            noise, latents = (1 - alpha).sqrt(), latents.to(fine)
            pictures = _blend((latents - noise * x.to(fine)) / alpha.sqrt(), masks)
            out = ((latents - alpha.sqrt() * pictures) / noise).to(x.dtype)
            # What is not blended stays as it is, bit for bit.
            params.x = torch.stack([out[image] if image in masks else x[image] for image in range(len(x))])
            kept = getattr(self._denoiser, "last_noise_uncond", None)
            if getattr(self._denoiser, "need_last_noise_uncond", False) and kept is not None and kept.shape == x.shape:
                self._denoiser.last_noise_uncond = _blend(kept, masks)
        runner = self._runner()
        if runner is not None:
            runner.account.note("local blend")

    def _masks_now(self, size: tuple[int, int]) -> dict[int, torch.Tensor]:
        """Edited picture -> [H, W] for latents of ``size``: of this first pass, or kept from it."""
        if self._place == HIRES:
            return {image: enlarged(mask, size, self._crop) for image, mask in self._masks.items()}
        runner = self._runner()
        return {} if runner is None else runner.masks(size)

    def _runner(self) -> Any:
        return None if self._accelerator is None else self._accelerator.running(PromptToPrompt)

    # -- after a pass --------------------------------------------------------------------------------------------------------

    def end(self, accelerator: Any, place: str) -> None:
        """The pass is over; what is kept of it has to be taken now."""
        runner = accelerator.running(PromptToPrompt)
        if place != FIRST or runner is None:
            return
        if self._size is not None:
            self._masks = runner.masks(self._size)
        # Another batch may have the others.
        words = [word for word in self.edits.heat_words() if any(stream.has(word) for stream in self._streams)]
        if words:
            self.heat = accelerator.heat_maps(words)


def _returns_noise(denoiser: Any) -> bool:
    """Whether a step ends with predicted noise in the picture's place; in the Forge family it never does."""
    return getattr(denoiser, "alphas", None) is not None and not family().forge


def hires_crop(p: Any) -> tuple[int, int]:
    """Rows and columns of the enlarged latents that the host cuts away for the hires pass, when it is of another shape."""
    return tuple(int(getattr(p, name, 0) or 0) for name in ("truncate_y", "truncate_x"))


def enlarged(mask: torch.Tensor, size: tuple[int, int], crop: tuple[int, int]) -> torch.Tensor:
    """A mask [h, w] of the first pass on the latents [H, W] of the hires pass, cut in the middle as the host cuts those."""
    height, width = size[0] + crop[0], size[1] + crop[1]
    whole = F.interpolate(mask[None, None].float(), (height, width))[0, 0]
    top, left = crop[0] // 2, crop[1] // 2
    return whole[top : top + size[0], left : left + size[1]]


def _blend(x: torch.Tensor, masks: dict[int, torch.Tensor]) -> torch.Tensor:
    """Every edited picture exactly the source's outside its mask."""
    out = x.clone()
    for image, mask in masks.items():
        out[image] = blended(x[image], x[0], mask.to(x.device))
    return out
