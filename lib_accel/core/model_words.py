"""What a model is called in what is told of it. Sentences are written of a U-Net; of another model they name that."""

from __future__ import annotations

from typing import Any

from .reasons import Reason

UNET, TRANSFORMER = "U-Net", "transformer"


def told_of(noun: str, told: Any) -> Any:
    """``told``, a clause or data that holds some, with ``noun`` in the U-Net's place. Codes and kinds of data stay."""
    if noun == UNET:
        return told
    if isinstance(told, Reason):
        made = Reason(told.replace(UNET, noun))
        made.code, made.values, made.partly = told.code, told_of(noun, told.values), told_of(noun, told.partly)
        return made
    if isinstance(told, str):
        return told.replace(UNET, noun)
    if isinstance(told, dict):
        return {told_of(noun, name): told_of(noun, value) for name, value in told.items()}
    return type(told)(told_of(noun, one) for one in told) if type(told) in (list, tuple, set) else told
