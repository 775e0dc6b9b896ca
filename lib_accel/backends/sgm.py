"""Stability's generative-models (SGM) U-Nets, as the WebUI loads SDXL base and refiner.

They are taken apart as LDM's are: the same stages, class names and sub-modules. What differs is how a block calls its attention: with the
keywords ``additional_tokens`` (a tensor of tokens to attend to besides the layer's own) and ``n_times_crossframe_attn_in_self`` (groups of
rows that attend to each other). A method must not stand in for either; None and 0, which is what image models pass, mean neither.
"""

from __future__ import annotations

import inspect

from torch import nn

from ..core.sites import named
from .ldm import LDMBackend

EXTRA_ARGUMENTS = ("additional_tokens", "n_times_crossframe_attn_in_self")


class SGMBackend(LDMBackend):
    name = "sgm"
    looked_for = "an SGM U-Net (as LDM's, with blocks that take additional_tokens)"
    attention_arguments = (*LDMBackend.attention_arguments, *EXTRA_ARGUMENTS)

    def matches(self, unet: nn.Module) -> bool:
        """An LDM-like U-Net that comes from the package ``sgm``, or whose blocks have SGM's signature."""
        if not super().matches(unet):
            return False
        blocks = {type(m) for m in unet.modules() if named(m, "BasicTransformerBlock")}
        return _is_from_sgm(unet) or any(map(_takes_additional_tokens, blocks))


def _is_from_sgm(module: nn.Module) -> bool:
    return any(c.__module__.split(".")[0] == "sgm" for c in type(module).__mro__)


def _takes_additional_tokens(block: type[nn.Module]) -> bool:
    """By every class of the block: what hosts derive from it may have lost the signature."""
    forwards = (vars(c)[name] for c in block.__mro__ for name in ("forward", "_forward") if callable(vars(c).get(name)))
    return any("additional_tokens" in inspect.signature(forward).parameters for forward in forwards)
