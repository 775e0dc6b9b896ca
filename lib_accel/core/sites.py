"""Sites: the transformer blocks of a U-Net, and how a model is taken apart to find them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .forge_models import wrapper_of
from .reasons import Reason

# Whether code is being traced to be compiled. Since torch 2.3; before that a compiled U-Net is known by its own marks alone.
is_tracing = getattr(torch.compiler, "is_compiling", bool)
PARTS = ("attn1", "attn2", "ff")
# Where pipelines of diffusers hold their transformers.
FIRST, SECOND = "transformer", "transformer_2"


class UnsupportedModelError(TypeError):
    """The model is none that the backends know; the sentence names what was looked for."""


@dataclass(eq=False)
class Site:
    """One transformer block in its spatial transformer.

    name: module path under the U-Net. level: halvings of the latent before it (0: full latent resolution), from its place in the
    U-Net. place: ``down`` | ``mid`` | ``up``. Modules are held weakly: a site never keeps a model alive.
    """

    name: str
    level: int
    place: str
    _transformer: weakref.ref = field(repr=False)
    _block: weakref.ref = field(repr=False)

    @classmethod
    def of(cls, name: str, level: int, place: str, transformer: nn.Module, block: nn.Module) -> Site:
        return cls(name, level, place, weakref.ref(transformer), weakref.ref(block))

    @property
    def transformer(self) -> nn.Module | None:
        return self._transformer()

    @property
    def block(self) -> nn.Module | None:
        return self._block()

    def part(self, name: str) -> nn.Module | None:
        """``attn1``, ``attn2`` or ``ff`` of the block; None when the block has none (or is gone)."""
        return getattr(self._block(), name, None)


def named(module: Any, class_name: str) -> bool:
    """Whether a class of that name is among the module's classes: subclasses of patched or renamed blocks still count."""
    return any(c.__name__ == class_name for c in type(module).__mro__)


def sites_in(root: nn.Module, prefix: str, level: int, place: str, transformer_class: str) -> Iterator[Site]:
    """The sites below ``root`` (a stage of the U-Net at ``level``), in order of execution."""
    for path, transformer in root.named_modules():
        if not named(transformer, transformer_class):
            continue
        for index, block in enumerate(getattr(transformer, "transformer_blocks", ())):
            if named(getattr(block, "_orig_mod", block), "BasicTransformerBlock"):
                name = ".".join(p for p in (prefix, path, f"transformer_blocks.{index}") if p)
                yield Site.of(name, level, place, transformer, block)


def is_compiled(module: nn.Module | None) -> bool:
    """Whether ``module`` was compiled in place, is the wrapper that torch.compile returns, or has a compiled forward."""
    if getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod"):
        return True
    return module is not None and (_has_compiled_code(module.__dict__.get("forward")) or _has_compiled_code(type(module).forward))


def _has_compiled_code(forward: Any) -> bool:
    """Whether ``forward``, or something below it, is what torch.compile returned. Functions kept from compiling carry its mark, too."""
    for _ in range(20):
        if forward is None:
            return False
        if hasattr(forward, "_torchdynamo_orig_callable") and not getattr(forward, "_torchdynamo_disable", False):
            return True
        # Ours, a hook's, a decorator's.
        forward = getattr(forward, "previous", None) or getattr(forward, "func", None) or getattr(forward, "__wrapped__", None)
    return False


def part_compiled(place: str) -> Reason:
    """place: path of a module under the U-Net, or name of a layer."""
    return Reason.of("part_compiled", "{place} is compiled", place=place)


def out_of_reach(unet: nn.Module, site: Site) -> str | None:
    """Why nothing can be put on ``site``'s layers now (a short clause), or None.

    Python's hooks do not act inside compiled code, or stay for ever in it; a block that was exchanged is not the one that runs.
    """
    module, path = unet, []
    for piece in site.name.split("."):
        module = getattr(module, piece, None)
        path.append(piece)
        if is_compiled(module):
            return part_compiled(".".join(path))
    if module is None or module is not site.block:
        return Reason.of("exchanged", "the block was replaced after the methods were applied")
    return next((part_compiled(part) for part in PARTS if is_compiled(site.part(part))), None)


def is_transformer(module: Any) -> bool:
    """Whether ``module`` is a diffusion transformer of diffusers."""
    return any(c.__module__.startswith("diffusers.models.transformers.") for c in type(module).__mro__)


def held_unet(model: Any) -> nn.Module:
    """The U-Net of a diffusers pipeline (``.unet``, or its ``.transformer``), an LDM or SGM engine (``.model.diffusion_model``), one of
    the Forge family (``.forge_objects``), or the U-Net itself; as it is held there, perhaps in a compiled wrapper. UnsupportedModelError
    when there is none.
    """
    transformer = getattr(model, FIRST, None)
    if transformer is None:
        transformer = getattr(model, SECOND, None)
    if not is_transformer(getattr(transformer, "_orig_mod", transformer)):
        transformer = None
    # Where a host of the Forge family compiles, ``.model`` still holds the module as it was: its own place is asked first.
    candidates = (getattr(model, "unet", None), transformer, getattr(wrapper_of(model), "diffusion_model", None), model)
    for candidate in candidates:
        if isinstance(candidate, nn.Module):
            return candidate
    raise UnsupportedModelError(
        f"{type(model).__name__} holds no U-Net: looked for a diffusers pipeline (.unet, .transformer), an LDM or SGM model "
        "(.model.diffusion_model), one of the Forge family (.forge_objects) and a U-Net module itself."
    )


def held_second(model: Any) -> nn.Module | None:
    """The second transformer of a diffusers pipeline that draws with two in turn (Wan 2.2: the first at high noise, it at low noise), as it
    is held there; None where there is one alone.
    """
    first, second = (getattr(model, name, None) for name in (FIRST, SECOND))
    both = all(is_transformer(getattr(one, "_orig_mod", one)) for one in (first, second))
    return second if both and second is not first else None


def find_unet(model: Any) -> nn.Module:
    """`held_unet`, looking through a compiled wrapper."""
    held = held_unet(model)
    return getattr(held, "_orig_mod", held)
