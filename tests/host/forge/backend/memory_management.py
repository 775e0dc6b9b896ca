"""How much of the GPU may be used."""

from types import SimpleNamespace

vram_state = SimpleNamespace(name="NORMAL_VRAM")
