"""Under what the calls of a pass run, row by row: texts, adapters, guidance. What methods keep belongs to it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from .rows import Layout

SCALE = "the guidance scale"
# Arguments of U-Nets and transformers that may hold a scale of LoRA layers.
_OF_ADAPTERS = ("cross_attention_kwargs", "joint_attention_kwargs", "attention_kwargs")
# A tensor as it was seen, and its version: tensors may be changed in place.
Seen = tuple[torch.Tensor, int]


class Conditions:
    """Remembers the last texts of every row and the last adapters, and tells when they changed in mid-pass."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """A pass begins."""
        self._rows: dict[Hashable, tuple[tuple[Seen, ...], int]] = {}
        self._adapters: Hashable = None
        self._scale: float | None = None
        self._pictures: int | None = None
        self._empty = True

    def changed(
        self, rows: Layout, texts: Iterable[torch.Tensor], adapters: Hashable, scale: float | None = None, whole: bool = False
    ) -> tuple[str, ...]:
        """What differs from before, in words: ``the prompts``, ``the adapters``, ``the number of pictures``, `SCALE`.

        rows: those of the call. texts: what steers it, tensors [rows, ...] (others are the same for all rows). adapters: see `adapters_of`.
        scale: of guidance, None where nobody tells. Where guidance ends (at 1 or less), what was kept of the other rows is still theirs.
        whole: whether the call has rows of all pictures.
        Tensors are compared by identity, and by value only where that differs.
        """
        now = tuple((text, version_of(text)) for text in texts)
        told = []
        for index, row in enumerate(rows):
            kept = self._rows.get(row.key)
            if kept is not None and not told and not _same_row(kept, (now, index)):
                told.append("the prompts")
            self._rows[row.key] = (now, index)
        if not self._empty and adapters != self._adapters:
            told.append("the adapters")
        # Of fewer pictures nobody knows which they are.
        pictures = len({row.image for row in rows}) if rows.known else None
        if whole and None not in (pictures, self._pictures) and pictures != self._pictures:
            told.append("the number of pictures")
        self._pictures = pictures if whole else self._pictures
        if scale is not None and self._scale is not None and scale != self._scale and scale > 1:
            told.append(SCALE)
        self._adapters, self._scale, self._empty = adapters, scale, False
        return tuple(told)


def adapters_of(unet: nn.Module) -> Hashable:
    """Which LoRA layers (peft's) and image prompts (IP-Adapter's) act on ``unet``, and how strongly; None where it has none."""
    lora = getattr(unet, "peft_config", None) is not None
    image = getattr(unet, "encoder_hid_proj", None) is not None
    if not (lora or image):
        return None
    found: list[Hashable] = []
    # Asked in every call, of models with thousands of modules: no names, and nothing is looked up that is not there.
    modules: list[nn.Module] = [unet]
    while modules:
        module = modules.pop()
        if lora and isinstance(module.__dict__.get("scaling"), dict) and hasattr(type(module), "active_adapters"):
            merged, off = getattr(module, "merged_adapters", ()), getattr(module, "disable_adapters", False)
            found.append((tuple(module.active_adapters), tuple(merged), off, str(module.scaling)))
            # Most of the modules: what it is made of, which holds no other.
            continue
        processor = (module.__dict__.get("processor") or module._modules.get("processor")) if image else None
        if processor is not None and "IPAdapter" in type(processor).__name__:
            found.append(str(getattr(processor, "scale", None)))
        modules += [child for child in module._modules.values() if child is not None]
    return tuple(found)


def scale_of_adapters(kwargs: Mapping[str, Any]) -> Any:
    """How strongly LoRA layers act in a call with these arguments; None where it does not say.

    Callbacks change it in mid-pass, in what the pipeline was called with.
    """
    given = (kwargs.get(name) for name in _OF_ADAPTERS)
    return next((str(one["scale"]) for one in given if isinstance(one, Mapping) and "scale" in one), None)


def tensors_in(*values: Any) -> tuple[torch.Tensor, ...]:
    """The tensors in ``values``, nested as they come."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, dict):
            found += tensors_in(*value.values())
        elif isinstance(value, (list, tuple)):
            found += tensors_in(*value)
    return tuple(found)


def _same_row(one: tuple[tuple[Seen, ...], int], other: tuple[tuple[Seen, ...], int]) -> bool:
    (before, at), (now, index) = one, other
    if len(before) != len(now):
        return False
    for (old, old_version), (new, version) in zip(before, now):
        if old is new and at == index:
            if old_version != version:
                # Changed in place, and what it was is gone.
                return False
            continue
        mine, others = (_row_of(old, at), _row_of(new, index))
        if mine.shape != others.shape or mine.dtype != others.dtype or mine.device != others.device or not torch.equal(mine, others):
            return False
    return True


def _row_of(text: torch.Tensor, index: int) -> torch.Tensor:
    return text[index] if text.ndim and text.shape[0] > index else text


def version_of(tensor: torch.Tensor) -> int:
    """Counts changes in place; tensors made in inference mode do not tell."""
    return -1 if tensor.is_inference() else tensor._version
