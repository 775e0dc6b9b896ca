"""The WebUI's own `sgm` and `ldm`, from the folder that the environment variable A1111_ROOT names."""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from lib_accel.cli.workloads import sdpa_forward

REPOSITORIES = {"sgm": "generative-models", "ldm": "stable-diffusion-stability-ai"}
# Packages of which only the modules below them are wanted: what they themselves import (data sets, losses, text encoders) is not installed.
HOLLOW = {"sgm": ("sgm", "sgm.modules", "sgm.modules.diffusionmodules"), "ldm": ("ldm", "ldm.modules", "ldm.modules.diffusionmodules")}


def host_folder() -> Path | None:
    """The WebUI's folder, or None when there is none to test on."""
    named = os.environ.get("A1111_ROOT")
    return Path(named) if named else None


@lru_cache
def unet_class(package: str) -> type:
    """UNetModel of the host's ``package`` (``sgm`` | ``ldm``). What was imported under that name before is there again afterwards.

    LDM's attention gets the forward that the WebUI puts in at class level; its own fails in half precision. SGM's stays: it knows the
    arguments that the WebUI's leaves out.
    """
    with _packages_of(package):
        found = importlib.import_module(f"{package}.modules.diffusionmodules.openaimodel").UNetModel
        if package == "ldm":
            sys.modules["ldm.modules.attention"].CrossAttention.forward = sdpa_forward
        return found


@contextmanager
def _packages_of(package: str) -> Iterator[None]:
    folder = host_folder() / "repositories" / REPOSITORIES[package]
    if not (folder / package).is_dir():
        raise FileNotFoundError(f"A1111_ROOT has no {folder / package}.")
    before = _take_out(package)
    try:
        for name in HOLLOW[package]:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [str(folder.joinpath(*name.split(".")))]
        yield
    finally:
        _take_out(package)
        sys.modules.update(before)


def _take_out(package: str) -> dict[str, types.ModuleType]:
    names = [name for name in sys.modules if name == package or name.startswith(package + ".")]
    return {name: sys.modules.pop(name) for name in names}
