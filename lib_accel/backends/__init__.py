"""The families of U-Nets that Accel knows. What differs between them is here and nowhere else."""

from __future__ import annotations

from torch import nn

from ..core.sites import UnsupportedModelError
from .base import Backend, LayerCall
from .diffusers import DiffusersBackend
from .forge import ForgeBackend
from .forge_transformer import ForgeTransformerBackend
from .ldm import LDMBackend
from .pixart import PixArtBackend
from .sgm import SGMBackend
from .transformer import TransformerBackend

# In this order: SGM's and Forge's U-Nets are LDM's with something more.
BACKENDS: tuple[Backend, ...] = (
    ForgeBackend(),
    SGMBackend(),
    LDMBackend(),
    DiffusersBackend(),
    PixArtBackend(),
    TransformerBackend(),
    ForgeTransformerBackend(),
)

__all__ = ["BACKENDS", "Backend", "LayerCall", "backend_for"]


def backend_for(unet: nn.Module) -> Backend:
    """The backend that knows ``unet``. UnsupportedModelError, naming what was looked for, when none does."""
    for backend in BACKENDS:
        if backend.matches(unet):
            return backend
    wanted = "; ".join(backend.looked_for for backend in BACKENDS)
    raise UnsupportedModelError(f"{type(unet).__name__} is no U-Net or diffusion transformer that Accel knows. Looked for: {wanted}.")
