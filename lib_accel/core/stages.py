"""Stages: the blocks of a U-Net in order of execution."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn


@dataclass(eq=False)
class Stage:
    """One block of a U-Net: a ResBlock with its transformer, a down-sampler, the first convolution, the middle.

    Every U-Net has as many down stages as up stages. What a down stage returns is also a skip connection, which one up stage takes (see
    `partner`): the last up stage that of the first down stage. An up-sampler belongs to the stage before it.

    name: module path under the U-Net of its first module. index: place in order of execution, from 0. place: ``down`` | ``mid`` | ``up``.
    level: halvings of the latent that it is run on (0: full latent resolution); what it returns may be on another.
    holds: ``input`` (the first convolution) | ``block`` (a ResBlock, perhaps with its transformer and an up-sampler) | ``downsampler`` |
    ``middle``. Modules are held weakly: a stage never keeps a model alive.
    """

    name: str
    index: int
    place: str
    level: int
    holds: str
    _modules: tuple[weakref.ref, ...] = field(repr=False, default=())

    @classmethod
    def of(cls, name: str, index: int, place: str, level: int, holds: str, modules: Iterable[nn.Module]) -> Stage:
        return cls(name, index, place, level, holds, tuple(weakref.ref(module) for module in modules))

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Its modules, in order of execution; empty when the model is gone."""
        modules = tuple(reference() for reference in self._modules)
        return () if any(module is None for module in modules) else modules


def partner(stages: tuple[Stage, ...], up: Stage) -> Stage:
    """The down stage whose skip connection the up stage ``up`` takes."""
    return stages[len(stages) - 1 - up.index]
