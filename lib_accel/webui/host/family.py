"""Which family of WebUIs runs us, asked once: AUTOMATIC1111's own, or Forge's (Forge, Forge Neo, reForge, Classic).

Told by what can be imported and never by version strings. Whatever only one of them has is imported where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec


@dataclass(frozen=True)
class Family:
    """forge: whether it is Forge's family. comfy: whether that host's U-Nets are ComfyUI's (``ldm_patched``: reForge, Classic).

    hides_skips: whether the host leaves the negative prompt out behind the last callback that could see it (reForge).
    """

    forge: bool = False
    comfy: bool = False
    hides_skips: bool = False


@cache
def family() -> Family:
    """The host's."""
    if not _has("modules_forge"):
        return Family()
    comfy = _has("ldm_patched") and not _has("backend.nn.unet")
    return Family(True, comfy, comfy and _has("modules.hypernetworks"))


def _has(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):  # Of a package that is none, or was made by hand.
        return False
