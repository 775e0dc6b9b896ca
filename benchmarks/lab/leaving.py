"""Taking back what other libraries leave on modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


@contextmanager
def left_as_it_was(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Afterwards the attributes ``names`` of every module of ``model`` are what they were, or not there."""
    before = {module: {name: vars(module)[name] for name in names if name in vars(module)} for module in model.modules()}
    try:
        yield
    finally:
        for module, own in before.items():
            for name in names:
                vars(module).pop(name, None)
            vars(module).update(own)
