"""Which family a U-Net is of, under the name that the guide gives it."""

from .settings.model_families import FAMILIES, family_of

__all__ = ["FAMILIES", "family_of"]
