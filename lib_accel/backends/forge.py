"""U-Nets of the Forge family of WebUIs: ComfyUI's (``ldm_patched``: reForge, Classic) and Forge's own (``backend.nn.unet``: Forge, Neo).

They are taken apart as LDM's are: the same stages, class names and sub-modules. What differs: attention is given a ``value`` of its own and
``transformer_options``, in which the host marks whose rows a call holds and other extensions leave their patches; blocks add to their
tokens in place.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..core.conditions import tensors_in
from ..core.marked_rows import ROLES
from ..core.reasons import Reason
from ..core.row_slicing import cut_rows
from ..core.sites import named
from ..core.stages import Stage
from . import known
from .base import LayerCall
from .ldm import LDMBackend

OPTIONS = "transformer_options"
# What a U-Net is given with a row for each of its latents; ``control`` and what is in it only where it has as many.
ROWS = frozenset({"x", "timesteps", "context", "y", "control"})
# Extensions whose patches work row by row, by a piece of their module's name.
ROW_BY_ROW = ("tomesd", "freeu", "hypertile", "hrfix", "controlllite")
# Patches that work between a U-Net's stages.
BETWEEN_STAGES = ("input_block_patch", "input_block_patch_after_skip", "output_block_patch", "middle_block_after_patch")
BETWEEN_STAGES_OPTIONS = ("block_modifiers", "block_inner_modifiers")


class ForgeBackend(LDMBackend):
    name = "forge"
    looked_for = "a U-Net of the Forge family (as LDM's, with attention that takes value and transformer_options)"
    attention_arguments = ("x", "context", "value", "mask", OPTIONS)
    harmless = {"attn1": frozenset({OPTIONS}), "attn2": frozenset({OPTIONS})}

    def matches(self, unet: nn.Module) -> bool:
        """An LDM-like U-Net that comes from one of the two backends, or whose attention has their signature."""
        if not super().matches(unet):
            return False
        return _is_from_forge(unet) or any(map(_takes_value, {type(m) for m in unet.modules() if named(m, "CrossAttention")}))

    def find_stages(self, unet: nn.Module) -> tuple[Stage, ...]:
        """None of ComfyUI's: it runs the layers of each stage by a function of its own, past the stage's module."""
        return () if _is_from(unet, "ldm_patched") else super().find_stages(unet)

    def read_layer(self, part: str, args: tuple, kwargs: dict) -> LayerCall:
        """``value`` is nothing of its own where it is the context, or the tokens themselves."""
        if part == "ff":
            return super().read_layer(part, args, kwargs)
        given = {**dict(zip(self.attention_arguments, args)), **kwargs}
        x, context, value = (given.get(name) for name in ("x", "context", "value"))
        if len(args) <= len(self.attention_arguments) and value is not None and (value is context or (context is None and value is x)):
            given.pop("value")
            return super().read_layer(part, (given.pop("x"),), given)
        return super().read_layer(part, args, kwargs)

    def upcasts(self, attn: nn.Module) -> bool:
        return getattr(attn, "attn_precision", None) is torch.float32

    def marks_of(self, args: tuple, kwargs: dict) -> tuple[str, ...] | None:
        marks = _options(args, kwargs).get("cond_or_uncond")
        if not isinstance(marks, (list, tuple)) or any(mark not in (0, 1) for mark in marks):
            return None
        return tuple(ROLES[int(mark)] for mark in marks)

    def together(self, unet: nn.Module, forward: Any, args: tuple, kwargs: dict) -> str | None:
        if kwargs.get("control") is not None:
            return Reason.of("residuals", "a ControlNet adds to what stages return")
        options = _options(args, kwargs)
        patches = options.get("patches") or {}
        functions = [f for name in BETWEEN_STAGES for f in patches.get(name) or ()]
        functions += [f for name in BETWEEN_STAGES_OPTIONS for f in options.get(name) or ()]
        if functions:
            return Reason.of("patch_on_stages", "a patch from {home} works on what stages return", home=home(functions[0]))
        stranger = next((patch for patch in patches_in(options) if not works_row_by_row(patch)), None)
        if stranger is not None:
            return Reason.of("patch_in_calls", "a patch from {home} may be needed in every call", home=home(stranger))
        return super().together(unet, forward, args, kwargs)

    def rows_obstacle(self, unet: nn.Module, args: tuple, kwargs: dict, count: int, by_host: bool) -> str | None:
        for name, value in kwargs.items():
            if name not in ROWS and name != OPTIONS and any(t.ndim and t.shape[0] == count for t in tensors_in(value)):
                return Reason.of("argument", "Accel does not know what the U-Net's argument {name} has to do with rows", name=name)
        if len(args) > 3:
            return Reason.of("arguments", "the U-Net was given more arguments than Accel knows")
        return counting(_options(args, kwargs)) or super().rows_obstacle(unet, args, kwargs, count, by_host)

    def cut(self, unet: nn.Module, args: tuple, kwargs: dict, count: int, keep: Sequence[int]) -> tuple[tuple, dict]:
        """Known arguments alone are cut, and the marks say what is left. The host's own options stay as they are."""
        options = _options(args, kwargs)
        kwargs = {name: cut_rows(value, count, keep) if name in ROWS else value for name, value in kwargs.items()}
        if options:
            kwargs[OPTIONS] = _marked_anew(options, count, keep)
        return cut_rows(args, count, keep), kwargs


def patches_in(options: Mapping[str, Any]) -> Iterator[Any]:
    """The functions that other extensions left in ``transformer_options``."""
    for functions in (options.get("patches") or {}).values():
        yield from functions or ()
    for by_place in (options.get("patches_replace") or {}).values():
        yield from (by_place or {}).values()
    for name in (*BETWEEN_STAGES_OPTIONS, "group_norm_wrapper"):
        value = options.get(name)
        yield from value if isinstance(value, (list, tuple)) else [] if value is None else [value]


def home(function: Any) -> str:
    """The module of an extension's function, as a user may know it: their libraries are called ``lib_`` and their own name."""
    name = known.home_of(function).removesuffix(".py")
    return name.partition(".")[0].removeprefix("lib_") if name.startswith("lib_") else name


def works_row_by_row(patch: Any) -> bool:
    """Whether a patch is known to need no other rows of a call than those that it is given."""
    return any(piece in known.home_of(patch).lower() for piece in ROW_BY_ROW)


def counting(options: Mapping[str, Any]) -> Reason | None:
    """Who may count on all rows of a call, of those that left patches in ``transformer_options``; None when nobody does."""
    stranger = next((patch for patch in patches_in(options) if not works_row_by_row(patch)), None)
    return None if stranger is None else Reason.of("patch_counts_rows", "a patch from {home} may need all rows", home=home(stranger))


def _options(args: tuple, kwargs: dict) -> dict[str, Any]:
    options = kwargs.get(OPTIONS)
    return options if isinstance(options, dict) else {}


def _marked_anew(options: dict[str, Any], count: int, keep: Sequence[int]) -> dict[str, Any]:
    """A copy of ``options`` that marks the rows ``keep`` of ``count`` as the host would have marked a call of them alone.

    Neighbours find a chunk's rows by their number over the number of marks: where chunks were cut unequally each row is one.
    """
    marks = options.get("cond_or_uncond")
    if not isinstance(marks, (list, tuple)) or not marks or count % len(marks):
        return dict(options)
    size = count // len(marks)
    by_chunk = [[row for row in keep if row // size == chunk] for chunk in range(len(marks))]
    left = [(chunk, rows) for chunk, rows in enumerate(by_chunk) if rows]
    even = len({len(rows) for _, rows in left}) == 1
    chunks = [chunk for chunk, _ in left] if even else [row // size for row in keep]
    changed = dict(options)
    changed["cond_or_uncond"] = [marks[chunk] for chunk in chunks]
    rows_of_mark = [marks[row // size] for row in keep]
    for name, mark in (("cond_indices", 0), ("uncond_indices", 1)):
        if name in options:
            changed[name] = [place for place, own in enumerate(rows_of_mark) if own == mark]
    if isinstance(options.get("uuids"), (list, tuple)) and len(options["uuids"]) == len(marks):
        changed["uuids"] = [options["uuids"][chunk] for chunk in chunks]
    if isinstance(options.get("cond_mark"), torch.Tensor):
        changed["cond_mark"] = cut_rows(options["cond_mark"], count, keep)
    sigmas = options.get("sigmas")
    if isinstance(sigmas, torch.Tensor) and sigmas.ndim and sigmas.shape[0] == size:
        # One for each row of a chunk, all of one noise level.
        changed["sigmas"] = sigmas[: len(keep) // len(chunks)]
    return changed


def _is_from_forge(module: nn.Module) -> bool:
    return _is_from(module, "ldm_patched") or _is_from(module, "backend.nn")


def _is_from(module: nn.Module, package: str) -> bool:
    return any(f"{c.__module__}.".startswith(f"{package}.") for c in type(module).__mro__)


def _takes_value(layer: type[nn.Module]) -> bool:
    forwards = (vars(c)["forward"] for c in layer.__mro__ if callable(vars(c).get("forward")))
    return any("value" in inspect.signature(forward).parameters for forward in forwards)
