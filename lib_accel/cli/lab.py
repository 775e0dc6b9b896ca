"""Peers and limits that `bench` and `quality` compare with: in benchmarks/lab of a checkout. Who only accelerates has no need of them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "lab"
NAME = "lib_accel_lab"


@dataclass(frozen=True)
class Peer:
    """apply: runs a model with it, as a context. kinds: steps of a pass -> (step, count) of each kind of step; None: every step is one of
    its own. limit: it only shows what could be won, its pictures mean nothing. settings: the class of what ``apply`` takes besides the
    model."""

    apply: Callable[..., AbstractContextManager]
    kinds: Callable[[int], list[tuple[int, int]]] | None = None
    limit: bool = False
    settings: type | None = None


def peers() -> dict[str, Peer]:
    """By the name that variants have on the command line; none where there is no such folder."""
    if NAME not in sys.modules:
        file = FOLDER / "__init__.py"
        if not file.exists():
            return {}
        spec = importlib.util.spec_from_file_location(NAME, file, submodule_search_locations=[str(FOLDER)])
        module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[NAME].PEERS


PEERS = peers()
# What is said where somebody asks for one.
MISSING = "" if PEERS else f" (other tools and limits are not here: {FOLDER} comes with a checkout of the project)"
