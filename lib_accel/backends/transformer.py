"""Models of which only whole calls can be left out: diffusion transformers of diffusers. Nothing of their inside is known or touched.

What they take as latents may be pictures, packed tokens, videos or a list with one tensor for each row. diffusers is never imported.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ..core.model_words import TRANSFORMER
from ..core.reasons import Reason
from ..core.row_slicing import prediction_of
from ..core.sites import Site, is_transformer
from . import known, row_safety
from .base import Backend

SAMPLES = ("hidden_states", "x")
TIMESTEPS = ("timestep", "timesteps", "t")
# What a model reads and writes besides its latents from call to call.
MEMORIES = ("kv_cache", "kv_cache_mode", "past_key_values")
# Hooks of diffusers that serve layers or blocks of a call from one before, by a piece of their class's name.
CACHES = {
    "FBC": "FirstBlockCache",
    "TaylorSeer": "TaylorSeer",
    "MagCache": "MagCache",
    "FasterCache": "FasterCache",
    "PyramidAttentionBroadcast": "PyramidAttentionBroadcast",
    "SeaCache": "SeaCache",
    "TextKVCache": "TextKVCache",
}
LISTED = Reason.of("listed_rows", "its rows come in a list")


class TransformerBackend(Backend):
    name = "transformer"
    noun = TRANSFORMER
    looked_for = "a diffusion transformer of diffusers (of diffusers.models.transformers, called with latents and a timestep)"
    whole_calls_only = True

    def matches(self, unet: nn.Module) -> bool:
        if not is_transformer(unet):
            return False
        names = tuple(inspect.signature(inspect.unwrap(type(unet).forward)).parameters)[1:]
        return bool(names) and names[0] in SAMPLES and any(name in names for name in TIMESTEPS) and "return_dict" in names

    def find_sites(self, unet: nn.Module) -> list[Site]:
        return []

    def sample_of(self, args: tuple, kwargs: dict) -> torch.Tensor:
        given = args[0] if args else next(kwargs[name] for name in SAMPLES if name in kwargs)
        return _joined(given)

    def timestep_of(self, args: tuple, kwargs: dict) -> Any:
        """Every pipeline reckons with it in its own way; its place in the schedule is looked up in the loop."""
        return None

    def prediction_of(self, output: Any) -> torch.Tensor | None:
        """None, too, where there are several (video and sound): what is kept would be a part."""
        if len(output) > 1 if isinstance(output, (tuple, dict)) else False:
            return None
        held = getattr(output, "sample", None)
        held = output[0] if held is None and isinstance(output, (tuple, dict)) and len(output) else held
        if isinstance(held, list):
            same = all(isinstance(one, torch.Tensor) and one.shape == held[0].shape for one in held)
            return torch.stack(held) if held and same else None
        return prediction_of(output)

    def output_of(self, unet: nn.Module, args: tuple, kwargs: dict, prediction: torch.Tensor) -> Any:
        forward = inspect.unwrap(type(unet).forward)
        parameters = inspect.signature(forward)
        given = parameters.bind_partial(unet, *args, **kwargs).arguments
        returns = given.get("return_dict", parameters.parameters["return_dict"].default)
        listed = isinstance(args[0] if args else next(kwargs[name] for name in SAMPLES if name in kwargs), list)
        value = list(prediction.unbind(0)) if listed else prediction
        if returns:
            return _output_class(unet)(sample=value)
        return value if _returns_it_bare(type(unet)) else (value,)

    def texts_of(self, unet: nn.Module, args: tuple, kwargs: dict) -> tuple[torch.Tensor, ...]:
        return row_safety.texts_of(unet, args, kwargs)

    def text_of(self, unet: nn.Module, args: tuple, kwargs: dict) -> Any:
        """The argument that tells the rows of a guided call apart, as it was given; None where there is none."""
        return next(iter(row_safety.texts_given(unet, args, kwargs)), None)

    def rows_obstacle(self, unet: nn.Module, args: tuple, kwargs: dict, count: int, by_host: bool) -> str | None:
        if isinstance(args[0] if args else None, list):
            return LISTED
        return row_safety.obstacle(unet, args, kwargs, count, by_host)

    def cut(self, unet: nn.Module, args: tuple, kwargs: dict, count: int, keep: Sequence[int]) -> tuple[tuple, dict]:
        return row_safety.cut(unet, args, kwargs, count, keep)

    def call_must_run(self, unet: nn.Module, args: tuple, kwargs: dict) -> str | None:
        if any(kwargs.get(name) is not None for name in MEMORIES):
            return Reason.of("memory", "each call changes what later calls are given")
        if _output_class(unet) is None:
            return Reason.of("output_unknown", "Accel does not know what {model} returns", model=type(unet).__name__)
        return next(_others_at_work(unet), None)


def _joined(given: Any) -> torch.Tensor:
    """Latents as one tensor [rows, ...]; rows of different shapes, and those of several pictures each, are flat."""
    if not isinstance(given, (list, tuple)):
        return given
    rows = [torch.cat([one.flatten() for one in row]) if isinstance(row, (list, tuple)) else row for row in given]
    if all(one.shape == rows[0].shape for one in rows):
        return torch.stack(rows)
    return nn.utils.rnn.pad_sequence([one.flatten() for one in rows], batch_first=True)


def _others_at_work(unet: nn.Module) -> Iterator[str]:
    """What serves parts of calls from those before, or may, in clauses."""
    for name, module in unet.named_modules():
        own, place = module.__dict__, name or "the model"
        # Those on the model itself see served calls, too.
        stranger = known.torch_hook_obstacle(module, place) if module is not unet else None
        if stranger:
            yield stranger
        if "forward" not in own and "_diffusers_hook" not in own and "_hf_hook" not in own:
            continue
        for hook_name, hook in known.hooks_on(module):
            kind = type(hook).__name__
            cache = next((title for piece, title in CACHES.items() if kind.startswith(piece)), None)
            if cache is not None and known.package_of(hook) == "diffusers":
                yield Reason.of("other_cache", "{cache} of diffusers acts on them", cache=cache)
            elif (known.package_of(hook), kind) not in known.HOOKS:
                yield known.hook_on(hook_name, hook, place)
        # Also on the model itself: TeaCache counts calls there.
        stranger = known.forward_obstacle(known.own_forward(module), known.SERVED, known.DIFFUSERS_FORWARDS, place)
        if stranger:
            yield stranger


def _output_class(unet: nn.Module) -> Any:
    """The class of one tensor, and of memories that need not be there, that the code of ``unet`` returns; None where it is another."""
    forward = inspect.unwrap(type(unet).forward)
    classes = [forward.__globals__.get(name) for name in forward.__code__.co_names if name.endswith("Output")]
    held = [dict(getattr(one, "__dataclass_fields__", {})) for one in classes]
    if len(held) != 1 or held[0].pop("sample", None) is None:
        return None
    return classes[0] if all(name in MEMORIES and field.default is None for name, field in held[0].items()) else None


@functools.lru_cache(maxsize=64)
def _returns_it_bare(unet_class: type) -> bool:
    """Whether calls without ``return_dict`` return the prediction itself, by its code; nearly all classes return a tuple of it."""
    try:
        code = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(unet_class.forward))))
    except (OSError, TypeError, SyntaxError):
        return False
    asked = (node for node in ast.walk(code) if isinstance(node, ast.If) and ast.unparse(node.test) == "not return_dict")
    returned = [one.value for node in asked for one in node.body if isinstance(one, ast.Return)]
    return bool(returned) and all(isinstance(one, ast.Name) for one in returned)
