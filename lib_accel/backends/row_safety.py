"""What around a diffusers U-Net is known to work row by row. Rows are cut only where all that takes part in a call is in these tables.

Code of somebody else's may pair the two halves of a guided batch (Prompt-to-Prompt controllers, style sharing, regional prompts), or keep
features of all rows from one call to the next (DeepCache). It fails on half of the rows, or takes another picture's without a word.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ..core.conditions import tensors_in
from ..core.reasons import Reason
from ..core.row_slicing import cut_rows
from . import known

# Packages whose modules and forwards work row by row: layers, quantised layers, LoRA layers, merging, offloading, compiled code.
PACKAGES = frozenset(
    {"torch", "diffusers", "peft", "torchao", "optimum", "bitsandbytes", "xformers", "tomesd", "accelerate", "lib_accel", "functools"}
)

# Arguments of a U-Net call with one row per row of the latents; dicts are looked into.
ROWS = frozenset(
    {
        "sample",
        "hidden_states",
        "timestep",
        "encoder_hidden_states",
        "class_labels",
        "timestep_cond",
        "attention_mask",
        "encoder_attention_mask",
        "encoder_hidden_states_mask",
        "pooled_projections",
        "guidance",
        "down_block_additional_residuals",
        "mid_block_additional_residual",
        "down_intrablock_additional_residuals",
        "added_cond_kwargs.text_embeds",
        "added_cond_kwargs.time_ids",
        "added_cond_kwargs.image_embeds",
        "added_cond_kwargs.resolution",
        "added_cond_kwargs.aspect_ratio",
        "cross_attention_kwargs.gligen.boxes",
        "cross_attention_kwargs.gligen.positive_embeddings",
        "cross_attention_kwargs.gligen.masks",
    }
)
# Those of them that say what is drawn.
TEXTS = frozenset(
    {
        "encoder_hidden_states",
        "encoder_hidden_states_t5",
        "encoder_hidden_states_llama3",
        "encoder_hidden_states_image",
        "text_bth",
        "cap_feats",
        "pooled_projections",
        "class_labels",
        "added_cond_kwargs.text_embeds",
        "added_cond_kwargs.time_ids",
        "added_cond_kwargs.image_embeds",
    }
)
# Arguments that are the same for all rows.
WHOLE = frozenset(
    {
        "return_dict",
        "cross_attention_kwargs.scale",
        "cross_attention_kwargs.ip_adapter_masks",
        "img_ids",
        "txt_ids",
        "image_rotary_emb",
        "rope_interpolation_scale",
    }
)
_DICTS = ("added_cond_kwargs", "cross_attention_kwargs", "cross_attention_kwargs.gligen")


def obstacle(unet: nn.Module, args: tuple, kwargs: dict, count: int, by_host: bool = False) -> str | None:
    """Why the ``count`` rows of this call of ``unet`` may not be cut (a clause), or None.

    by_host: a host told the rows; it knows what it put around the whole U-Net.
    """
    for name, value in _named(unet, args, kwargs):
        reason = _reason_of_argument(name, value, count)
        if reason:
            return reason
    return next(_strangers(unet, by_host), None)


def cut(unet: nn.Module, args: tuple, kwargs: dict, count: int, keep: Sequence[int]) -> tuple[tuple, dict]:
    """The call's arguments with the rows ``keep`` alone; for calls without `obstacle`."""
    names = _positional(type(unet))
    given = tuple(_cut_value(name, value, count, keep) for name, value in zip(names, args))
    return given, {name: _cut_value(name, value, count, keep) for name, value in kwargs.items()}


def texts_of(unet: nn.Module, args: tuple, kwargs: dict) -> tuple[torch.Tensor, ...]:
    """What a call is steered by: texts, pooled texts, SDXL's sizes, image prompts, classes."""
    return tensors_in(*(value for name, value in _named(unet, args, kwargs) if name in TEXTS))


def texts_given(unet: nn.Module, args: tuple, kwargs: dict) -> Iterator[Any]:
    """The same, each as it was given."""
    yield from (value for name, value in _named(unet, args, kwargs) if name in TEXTS and value is not None)


# -- arguments -------------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=32)
def _positional(unet_class: type) -> tuple[str, ...]:
    return tuple(inspect.signature(unet_class.forward).parameters)[1:]


def _named(unet: nn.Module, args: tuple, kwargs: dict) -> Iterator[tuple[str, Any]]:
    """Every argument by its name, those in dicts as ``dict.name``."""
    names = _positional(type(unet))
    for name, value in [*zip(names, args), *kwargs.items()]:
        yield from _flat(name, value)
    if len(args) > len(names):
        yield f"{len(names) + 1}. argument", args[len(names)]


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if name in _DICTS and isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}", item)
    else:
        yield name, value


def _reason_of_argument(name: str, value: Any, count: int) -> str | None:
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype)) or name in WHOLE:
        return None
    if name not in ROWS:
        return Reason.of("argument", "Accel does not know what the U-Net's argument {name} has to do with rows", name=name)
    for tensor in _tensors(value):
        if tensor is None:
            return f"the U-Net's argument {name} holds more than tensors"
        if tensor.ndim and tensor.shape[0] not in (1, count):
            return f"{name} has {tensor.shape[0]} rows, the latents have {count}"
    return None


def _tensors(value: Any) -> Iterator[torch.Tensor | None]:
    """The tensors in ``value``; None for what is none."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    else:
        yield value if isinstance(value, torch.Tensor) else None


def _cut_value(name: str, value: Any, count: int, keep: Sequence[int]) -> Any:
    if name in _DICTS and isinstance(value, dict):
        return {key: _cut_value(f"{name}.{key}", item, count, keep) for key, item in value.items()}
    return cut_rows(value, count, keep) if name in ROWS else value


# -- code ------------------------------------------------------------------------------------------------------------------------


def _strangers(unet: nn.Module, by_host: bool) -> Iterator[str]:
    """What of ``unet`` is not known to work row by row, in clauses."""
    packages = PACKAGES | {_package(type(unet))}
    forwards = dict.fromkeys(packages, frozenset({known.ROWS}))
    # Classes that are known, of whose modules most carry nothing of their own: a model has thousands.
    plain: set[type] = set()
    for name, module in unet.named_modules():
        kind = type(module)
        if kind in plain and _carries_nothing(module):
            continue
        place = name or "the U-Net"
        if _package(kind.forward) not in packages:
            yield Reason.of("module", "{place} is a {kind} of {package}", place=place, kind=kind.__name__, package=_package(kind.forward))
        elif not hasattr(kind, "processor"):
            plain.add(kind)
        stranger = known.processor_obstacle(module, known.ROWS)
        if stranger is None and not (by_host and module is unet):
            stranger = known.forward_obstacle(known.own_forward(module), known.ROWS, forwards, place)
        if stranger is None and not (by_host and module is unet):
            stranger = known.torch_hook_obstacle(module, place, inside_ours=module is unet)
        if stranger:
            yield stranger
        for hook_name, hook in known.hooks_on(module):
            if (known.package_of(hook), type(hook).__name__) not in known.HOOKS:
                yield known.hook_on(hook_name, hook, place)


def _package(thing: Any) -> str:
    return str(getattr(thing, "__module__", None)).partition(".")[0]


def _carries_nothing(module: nn.Module) -> bool:
    """Whether no processor, forward or hook is on ``module`` itself."""
    own = module.__dict__
    if "forward" in own or "_diffusers_hook" in own or "_hf_hook" in own or "processor" in own or "processor" in module._modules:
        return False
    return not module._forward_pre_hooks and not module._forward_hooks
