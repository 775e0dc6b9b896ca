"""Models of diffusers as small as they can be, from their own configs.

A model is made small by the names of its settings. Where one of its layers turns out to take another width than a call brings, the setting
with that width is put right (`misfit_of`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import models
import torch
from transformers_parts import CHANNELS, TOKENS, WIDTH, Vae

HEAD, MOST = 16, 5_000_000
# Settings of transformers by a piece of their names; the first that fits.
SMALL: tuple[tuple[str, Any], ...] = (
    ("attention_head_dim", HEAD),
    ("num_attention_heads", 2),
    ("num_key_value_heads", 1),
    ("num_kv_heads", 1),
    ("num_cross_attention_heads", 2),
    ("cross_attention_head_dim", HEAD),
    ("num_cross_attention_head", 2),
    ("num_heads", 2),
    ("n_heads", 2),
    ("n_kv_heads", 2),
    ("num_refiner_layers", 1),
    ("n_refiner_layers", 1),
    ("refiner_layers", 1),
    ("n_layers", 1),
    ("layers", 1),
    ("depth", 1),
    ("sample_height", 8),
    ("sample_width", 8),
    ("sample_frames", 5),
    ("max_text_seq_length", TOKENS),
    ("text_len", TOKENS),
    ("text_in_dim", WIDTH),
    ("_blocks", 1),
    ("joint_attention_dim", WIDTH),
    ("cross_attention_dim", WIDTH),
    ("caption_projection_dim", 2 * HEAD),
    ("caption_channels", WIDTH),
    ("cap_feat_dim", WIDTH),
    ("text_emb", WIDTH),
    ("text_dim", WIDTH),
    ("pooled_projection_dim", WIDTH),
    ("pooled", WIDTH),
    ("ffn_dim", 4 * HEAD),
    ("ff_dim", 4 * HEAD),
    ("ffn_hidden_size", 4 * HEAD),
    ("intermediate_size", 4 * HEAD),
    ("time_embed_dim", 2 * HEAD),
    ("text_hidden", WIDTH),
    ("hidden_dim", 2 * HEAD),
    ("hidden_size", 2 * HEAD),
    ("inner_dim", 2 * HEAD),
    ("model_dim", 2 * HEAD),
    ("model_channels", 2 * HEAD),
    ("visual_dim", CHANNELS),
    ("image_dim", WIDTH),
    ("image_embed_dim", WIDTH),
    ("motion_encoder_size", 16),
    ("motion_encoder_dim", WIDTH),
    ("motion_style_dim", WIDTH),
)
# Those that some classes leave to their callers.
UNTOLD = {
    "in_channels": CHANNELS,
    "control_in_dim": 2 * CHANNELS + 1,
    "sample_size": 8,
    "patch_size": 2,
    "num_kv_heads": 2,
    "caption_channels": WIDTH,
    "rope_scaling": {"short_factor": [1.0] * (HEAD // 2), "long_factor": [1.0] * (HEAD // 2)},
    "control_layers_places": [0],
    "control_refiner_layers_places": [0],
    "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
}
# The same where it is a list.
UNTOLD_LISTS = {"caption_channels": [WIDTH, WIDTH], "llama_layers": [0, 1], "axes_dim": [HEAD // 2, HEAD // 2]}
# Of classes whose defaults fit none of their own calls.
OF_CLASS: dict[str, dict[str, Any]] = {"HiDreamImageTransformer2DModel": {"axes_dims_rope": (8, 4, 4)}}
# Settings that say how many channels of latents a model takes.
TAKEN = ("in_channels", "in_dim", "visual_dim")


def arguments(function: Any) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: one for name, one in inspect.signature(function).parameters.items() if name != "self" and one.kind in kinds}


def tiny(kind: type, channels: float = 1, fixed: Mapping[str, int] | None = None) -> torch.nn.Module:
    """``kind`` with few, narrow layers; what is not made small keeps its default.

    channels: times the latents that it takes by default. fixed: settings by name.
    """
    asked = arguments(kind.__init__)
    given = {name: value for name, one in asked.items() if (value := _small(name, one)) is not None}
    if all(name in asked and asked[name].default is None for name in ("in_channels", "out_channels")):
        given["out_channels"] = CHANNELS
    given |= OF_CLASS.get(kind.__name__, {})
    changed = dict(fixed or {})
    if channels != 1:
        changed = _with_channels(asked, channels) | changed
    if "in_channels" in changed:
        taken, out = (asked.get(name) for name in ("in_channels", "out_channels"))
        if out is not None and out.default is None and "out_channels" not in changed:
            changed["out_channels"] = given.get("in_channels", taken.default)
    return _built(kind, given | changed)


def _with_channels(asked: Mapping[str, inspect.Parameter], times: float) -> dict[str, Any]:
    """Room for a picture beside the latents, and classes' own words for it, of which one comes with a mask."""
    words = {"visual_cond": True, "image_condition_type": "latent_concat", "image_dim": WIDTH, "added_kv_proj_dim": 2 * HEAD}
    given = {name: word for name, word in words.items() if name in asked}
    if "in_channels" in asked and asked["in_channels"].default:
        given["in_channels"] = round(times * asked["in_channels"].default) + ("image_condition_type" in asked)
    return given


# Classes that were found small.
_MEASURED: set[type] = set()


def _built(kind: type, given: dict[str, Any]) -> torch.nn.Module:
    if kind not in _MEASURED:
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in kind(**given).parameters())
        if size > MOST:
            raise LookupError(f"{kind.__name__} is not made small: {size} parameters")
        _MEASURED.add(kind)
    torch.manual_seed(1)
    return models.built(kind, given, 0)


def _small(name: str, argument: inspect.Parameter) -> Any:
    """What the setting ``name`` of a transformer is made; None for its default."""
    default = argument.default
    if name == "vace_layers":
        return [0]
    if isinstance(default, (tuple, list)):
        numbers = all(isinstance(one, int) for one in default)
        return type(default)(_axes(len(default))) if numbers and sum(default) > HEAD and ("rope" in name or "axes_dim" in name) else None
    if isinstance(default, bool):
        return None
    if default is None or default is inspect.Parameter.empty:
        words = str(argument.annotation)
        if name in UNTOLD_LISTS and ("list" in words or "tuple" in words):
            return UNTOLD_LISTS[name]
        value = next((value for piece, value in SMALL if piece in name), None)
        return UNTOLD.get(name, value if "attention" in name and "int" in words else None)
    if not isinstance(default, int):
        return None
    if name == "dim":
        return 2 * HEAD
    return next((value for piece, value in SMALL if piece in name), None)


def _axes(count: int) -> list[int]:
    """Even numbers that add up to a head's width."""
    return [HEAD - 4 * (count - 1)] + [4] * (count - 1)


# What is said of a layer that takes another width than it is given, and whether it says first what it takes.
WORDS = (
    (r"cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)", False),
    (r"to have (\d+) channels, but got (\d+) channels", True),
    (r"normalized_shape=\[(\d+)\].* got input of size ?\[(?:\d+, )*(\d+)\]", True),
)
# What is said of latents of different channels that are to go together.
SIZES = (
    r"tensor(?: a)? \((\d+)\) must match the .*size.* \((\d+)\) at non-singleton dimension 1",
    r"Sizes of tensors must match except in dimension \d\. Expected size (\d+) but got size (\d+)",
)


def misfit_of(error: Exception, parts: Mapping[str, Any]) -> tuple[str, str, int] | None:
    """(part, setting, value) that ``error``, raised within a call, asks for; None where it asks for nothing of the kind."""
    vae = parts.get("vae")
    sizes = next((match for words in SIZES if (match := re.search(words, str(error)))), None)
    if sizes is not None and isinstance(vae, Vae):
        return _channels_of(vae.config.latent_channels, *(int(one) for one in sizes.groups()))
    found = next(((match, straight) for words, straight in WORDS if (match := re.search(words, str(error)))), None)
    holder = _holder(error, parts)
    if found is None or not isinstance(parts.get(holder), torch.nn.Module):
        return None
    first, second = (int(one) for one in found[0].groups())
    width, brought = (first, second) if found[1] else (second, first)
    if holder == "controlnet" and isinstance(vae, Vae) and brought == vae.config.latent_channels:
        return "vae", "channels", width
    setting = next(_settings(parts[holder], width, brought), None)
    return None if setting is None else (holder, *setting)


def _channels_of(now: int, *sizes: int) -> tuple[str, str, int] | None:
    """The channels of a decoder with which latents of these ``sizes`` are of one; its own may lie four in one."""
    for mine, other in (sizes, sizes[::-1]):
        if mine in (now, 4 * now) and now * other % mine == 0:
            return "vae", "channels", now * other // mine
    return None


def _holder(error: Exception, parts: Mapping[str, Any]) -> str | None:
    """The innermost part that ``error`` passed."""
    name, trace = None, error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        name = next((part for part, one in parts.items() if one is owner), name)
        trace = trace.tb_next
    return name


def _settings(model: Any, width: int, brought: int) -> Iterator[tuple[str, int]]:
    """Settings of ``model`` that may have made the ``width``, with the values that make it ``brought``; the likeliest first."""
    config = {name: value for name, value in model.config.items() if isinstance(value, int) and not isinstance(value, bool)}
    for name, value in config.items():
        if name.startswith("extra_") and name.endswith("_channels") and value == 0 and brought > width:
            yield name, brought - width
    for exact in (True, False):
        for name, value in config.items():
            # Latents are cut into patches.
            times = width // value if value and any(name.endswith(word) for word in TAKEN) and not name.startswith("out_") else 0
            fits = value == width if exact else times > 1 and width % value == 0 and brought % times == 0
            if fits and not any(word in name for word in ("head", "layers", "out_", "num_")):
                yield name, brought if exact else brought // times
