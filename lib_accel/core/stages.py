"""Stages: the blocks of a U-Net in order of execution."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from .reasons import Reason
from .sites import is_compiled, part_compiled


@dataclass(eq=False)
class Stage:
    """One block of a U-Net: a ResBlock with its transformer, a down-sampler, the first convolution, the middle.

    Every U-Net has as many down stages as up stages. What a down stage returns is also a skip connection, which one up stage takes (see
    `partner`): the last up stage that of the first down stage. An up-sampler belongs to the stage before it.

    names: module paths under the U-Net of its modules, in order of execution. index: place in order of execution, from 0. place: ``down`` |
    ``mid`` | ``up``. level: halvings of the latent that it is run on (0: full latent resolution); what it returns may be on another.
    holds: ``input`` (the first convolution) | ``block`` (a ResBlock, perhaps with its transformer and an up-sampler) | ``downsampler`` |
    ``middle``. Modules are held weakly: a stage never keeps a model alive.
    """

    names: tuple[str, ...]
    index: int
    place: str
    level: int
    holds: str
    _modules: tuple[weakref.ref, ...] = field(repr=False, default=())

    @property
    def name(self) -> str:
        """Of its first module."""
        return self.names[0]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Its modules, in order of execution; empty when the model is gone."""
        modules = tuple(reference() for reference in self._modules)
        return () if any(module is None for module in modules) else modules

    def out_of_reach(self, unet: nn.Module) -> str | None:
        """Why nothing can be put on it now (a clause), or None: see `sites.out_of_reach`."""
        for name, wanted in zip(self.names, self._modules):
            module, path = unet, []
            for piece in name.split("."):
                module = getattr(module, piece, None)
                path.append(piece)
                if is_compiled(module):
                    return part_compiled(".".join(path))
            if module is None or module is not wanted():
                return Reason.of("exchanged", "{place} was replaced after the methods were applied", place=name)
        return None


class StageList:
    """Collects stages in order of execution."""

    def __init__(self) -> None:
        self.found: list[Stage] = []

    def add(self, place: str, level: int, holds: str, modules: dict[str, nn.Module]) -> None:
        """The next stage. modules: by path under the U-Net, in order of execution."""
        references = tuple(weakref.ref(module) for module in modules.values())
        self.found.append(Stage(tuple(modules), len(self.found), place, level, holds, references))

    def done(self) -> tuple[Stage, ...]:
        """All of them; none where not every skip connection has its two ends."""
        places = [stage.place for stage in self.found]
        return tuple(self.found) if places.count("down") == places.count("up") and places.count("mid") == 1 else ()


def partner(stages: Sequence[Stage], up: Stage) -> Stage:
    """The down stage whose skip connection the up stage ``up`` takes."""
    return stages[len(stages) - 1 - up.index]


def deep_stages(stages: Sequence[Stage], before: Stage) -> Sequence[Stage]:
    """The stages that need not run where what enters the up stage ``before`` is known; what the last of them returns is that."""
    return stages[partner(stages, before).index + 1 : before.index]
