"""Model families: which published shape a U-Net has, and whether it is run in few steps."""

from __future__ import annotations

from torch import nn

from ..backends import backend_for
from .few_step_models import few_step_sign

FAMILIES = ("sd1", "sd2", "sdxl", "few-step", "transformer")

# Width of the text context: CLIP-L, OpenCLIP-H, both of SDXL's encoders, and its refiner's.
_BY_CONTEXT = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl"}

FEW_STEP = "few-step"
TRANSFORMER = "transformer"


def family_of(unet: nn.Module, steps: int | None = None) -> str:
    """``sd1`` | ``sd2`` | ``sdxl`` by the width of the text context, ``few-step`` for passes of at most 10 steps (see `few_steps` for what
    else says so).

    A width nobody knows counts as ``sd1``: that is also the shape of small models. ``transformer`` for models of which only whole calls can
    be left out, however many steps there are: what acts on those looks at the steps itself. UnsupportedModelError for what is neither.
    """
    backend = backend_for(unet)
    if backend.whole_calls_only:
        return TRANSFORMER
    if few_step_sign(steps):
        return FEW_STEP
    sites = backend.find_sites(unet)
    projection = getattr(sites[0].part("attn2"), "to_k", None) if sites else None
    return _BY_CONTEXT.get(getattr(projection, "in_features", None), "sd1")


def with_steps(shape: str, sign: str | None) -> str:
    """The family by whose values presets go, of a model of ``shape``; sign: what `few_step_sign` says of the job.

    Of a transformer whole steps alone can be left out. Few steps do not make it another family: presets then leave it alone.
    """
    return FEW_STEP if sign and shape != TRANSFORMER else shape
