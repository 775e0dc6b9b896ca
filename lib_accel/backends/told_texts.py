"""Whose rows a transformer's call holds, by the texts that the pipeline's loop has at hand: its own words for what is negative.

Pipelines guide in one call (both texts joined, in either order) or in two. What a call is given is looked for among the loop's variables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

NEGATIVE = ("negative_", "neg_", "uncond", "null_")
POSITIVE = ("prompt",)
# What guiders of modular pipelines call the predictions that they ask for.
GUIDERS = {"pred_cond": "cond", "pred_uncond": "uncond"}
TEXTS = ("embed", "prompt", "hidden_states", "text")
# Pipelines that add guidance to what the prompt predicts, cond + scale * (cond - uncond), by how their names begin. Others add it to what
# the negative prompt predicts.
ADD_TO_COND = ("Cosmos2", "CosmosTextToWorld", "CosmosVideoToWorld", "Krea2", "ZImage")


def roles_of(text: Any, told: Mapping[str, Any], count: int, first: bool = True) -> tuple[str, ...] | None:
    """The role (``cond`` | ``uncond``) of each equal chunk of a call's ``count`` rows; None where it cannot be told.

    text: what the call is given, a tensor [rows, ...] or a list with an entry, or a list of them, for each row. told: the loop's
    variables, by name. first: whether it is the first call of its step.
    """
    guided = getattr(told.get("guider_state_batch"), "__guidance_identifier__", None)
    if guided is not None:
        role = GUIDERS.get(guided)
        return None if role is None else (role,)
    if not _is_text(text):
        return None
    negatives = [value for name, value in _texts(told) if name.startswith(NEGATIVE)]
    if any(_same(text, negative) for negative in negatives):
        # Where both texts are the same, so are both predictions: one of a step's two calls is for either.
        either = first and any(_same(text, value) for name, value in _texts(told) if name.startswith(POSITIVE))
        return ("cond",) if either else ("uncond",)
    images = _images(told)
    if images == count and len(text) in (1, count):
        return ("cond",)
    if images is None or count != 2 * images or len(text) != count:
        return None
    halves = text[:images], text[images:]
    for at, roles in enumerate((("uncond", "cond"), ("cond", "uncond"))):
        if any(_same(halves[at], negative) for negative in negatives):
            return roles
    return None


def roles_besides(told: Mapping[str, Any]) -> tuple[str, ...]:
    """The roles of the other predictions that a guider asks for in this step; ``image``: of neither text. None where no guider does."""
    asked, here = told.get("guider_state"), told.get("guider_state_batch")
    if here is None or not isinstance(asked, list):
        return ()
    return tuple(GUIDERS.get(getattr(one, "__guidance_identifier__", None), "image") for one in asked if one is not here)


def scale_of(told: Mapping[str, Any], pipeline: Any, name: str = "") -> float | None:
    """The scale of uncond + scale * (cond - uncond), which is how both predictions are combined, however a pipeline writes it.

    Where a model takes a guidance scale itself, pipelines call that of two calls the true one; those with two models have the scale of the
    one at work, those with two guiders that of theirs. A callback may change what the pipeline holds, and not what it was called with.

    name: the class that the loop is written in.
    """
    guider = told.get("guider", getattr(pipeline, "guider", None))
    values = (
        told.get("true_cfg_scale"),
        told.get("current_guidance_scale"),
        getattr(guider, "guidance_scale", None),
        getattr(pipeline, "_guidance_scale", None),
        told.get("guidance_scale"),
    )
    scale = next((number for number in map(_number, values) if number is not None), None)
    adds_to_cond = name.startswith(ADD_TO_COND) if guider is None else getattr(guider, "use_original_formulation", False) is True
    return scale + 1 if scale is not None and adds_to_cond else scale


def _number(value: Any) -> float | None:
    """A number, also one of numpy's or in a tensor; None for anything else."""
    try:
        return None if value is None or isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _texts(told: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in told.items():
        if any(word in name for word in TEXTS) and _is_text(value):
            yield name, value


def _images(told: Mapping[str, Any]) -> int | None:
    """How many pictures the loop draws."""
    latents = told.get("latents")
    return len(latents) if isinstance(latents, torch.Tensor) and latents.ndim else None


def _is_text(value: Any) -> bool:
    """Whether it is a tensor [rows, ...], or a list with a tensor, or the tensors, of each row."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(one, torch.Tensor) or (isinstance(one, (list, tuple)) and _is_text(one)) for one in value)
    return isinstance(value, torch.Tensor) and value.ndim > 1


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return _equal(one, other)
    return len(one) == len(other) and all(_same(mine, theirs) for mine, theirs in zip(one, other))


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether they hold the same; dimensions of one, which some pipelines put in, say nothing."""
    one, other = one.squeeze(), other.squeeze()
    return one.shape == other.shape and one.device == other.device and torch.equal(one, other.to(one.dtype))
