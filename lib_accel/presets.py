"""The presets, under the name that the guide gives them."""

from .settings.presets import PRESETS, preset

__all__ = ["PRESETS", "preset"]
