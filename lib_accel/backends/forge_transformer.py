"""Diffusion transformers of the Forge family of WebUIs (Flux, Chroma, Lumina, Z-Image, Qwen-Image, Wan, Anima, Krea, ERNIE-Image).

Of these, too, only whole calls can be left out. The host marks whose rows a call holds as it does for U-Nets, and tells steps and levels.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..core.model_words import TRANSFORMER
from ..core.reasons import Reason
from ..core.row_slicing import prediction_of
from ..core.sites import Site
from ..core.stages import Stage
from . import known
from .forge import OPTIONS, ForgeBackend

HOMES = ("backend.nn.", "ldm_patched.ldm.")
# By it Nunchaku's models say how alike two calls must be for the second to be served from the first; at 0 none is.
NUNCHAKU = "residual_diff_threshold_multi"
NOT_CUT = Reason.of("rows_together", "its rows share their reference pictures")


class ForgeTransformerBackend(ForgeBackend):
    name = "forge transformer"
    noun = TRANSFORMER
    looked_for = "a diffusion transformer of the Forge family (of backend.nn, called with latents, a timestep and a context)"
    whole_calls_only = True

    def matches(self, unet: nn.Module) -> bool:
        if not any(c.__module__.startswith(HOMES) for c in type(unet).__mro__):
            return False
        names = tuple(inspect.signature(type(unet).forward).parameters)[1:4]
        return names[:1] == ("x",) and names[1:2] in (("timestep",), ("timesteps",)) and names[2:] == ("context",) and not _is_unet(unet)

    def find_sites(self, unet: nn.Module) -> list[Site]:
        return []

    def find_stages(self, unet: nn.Module) -> tuple[Stage, ...]:
        return ()

    def timestep_of(self, args: tuple, kwargs: dict) -> Any:
        """Each has its own scale; the host tells the noise level."""
        return None

    def prediction_of(self, output: Any) -> torch.Tensor | None:
        return prediction_of(output) if isinstance(output, torch.Tensor) else None

    def rows_obstacle(self, unet: nn.Module, args: tuple, kwargs: dict, count: int, by_host: bool) -> str | None:
        return NOT_CUT

    def cut(self, unet: nn.Module, args: tuple, kwargs: dict, count: int, keep: Sequence[int]) -> tuple[tuple, dict]:
        raise ValueError("The rows of this model's calls are not cut.")

    def call_must_run(self, unet: nn.Module, args: tuple, kwargs: dict) -> str | None:
        # TeaCache and the like count calls in a forward of the model's own.
        stranger = known.forward_obstacle(known.own_forward(unet), known.SERVED, known.HOST_FORWARDS, "the model")
        if stranger:
            return stranger
        if any(getattr(module, "_is_cached", False) and getattr(module, NUNCHAKU, 0) > 0 for module in (unet, *unet.children())):
            return Reason.of("nunchaku_cache", "Nunchaku's First Block Cache acts on them")
        options = kwargs.get(OPTIONS)
        return self.together(unet, None, args, {OPTIONS: options} if isinstance(options, dict) else {})


def _is_unet(module: nn.Module) -> bool:
    return all(hasattr(module, name) for name in ("input_blocks", "middle_block", "output_blocks"))
