"""Model families: which published shape a U-Net has, and whether it is run in few steps."""

from __future__ import annotations

from torch import nn

from .backends import backend_for

FAMILIES = ("sd1", "sd2", "sdxl", "few-step")

# Width of the text context: CLIP-L, OpenCLIP-H, both of SDXL's encoders, and its refiner's.
_BY_CONTEXT = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl"}

FEW_STEPS = 10


def family_of(unet: nn.Module, steps: int | None = None) -> str:
    """``sd1`` | ``sd2`` | ``sdxl`` by the width of the text context, ``few-step`` for passes of at most 10 steps (LCM, Turbo, Lightning).

    A width nobody knows counts as ``sd1``: that is also the shape of small models. UnsupportedModelError for what is no U-Net.
    """
    if steps is not None and steps <= FEW_STEPS:
        return "few-step"
    sites = backend_for(unet).find_sites(unet)
    projection = getattr(sites[0].part("attn2"), "to_k", None) if sites else None
    return _BY_CONTEXT.get(getattr(projection, "in_features", None), "sd1")
