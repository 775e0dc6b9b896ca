"""The U-Net that is accelerated: its parts, found once, and why they cannot be reached now."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from ..backends import Backend, backend_for
from ..backends.known import class_obstacle, torch_hook_obstacle
from ..core.reasons import Reason
from ..core.sites import Site, UnsupportedModelError, held_unet, is_compiled
from ..core.stages import Stage

COMPILED = Reason.of("compiled", "everything is off: {why}", why="the U-Net is compiled")
EXCHANGED = Reason.of("exchanged", "the model's U-Net was replaced, and nothing acts on the new one")


class Subject:
    """The U-Net of ``model`` (see `find_unet`), or its second (see `held_second`); both are held weakly.

    called: its class. sites: its transformer blocks. finest, coarsest:
    levels of this U-Net that have attention. stages: empty unless they are wanted.
    """

    def __init__(self, model: Any, wants_stages: bool, held: Callable[[Any], nn.Module] = held_unet) -> None:
        unet, self._held = held(model), held
        unet = getattr(unet, "_orig_mod", unet)
        self._unet, self._model = weakref.ref(unet), weakref.ref(model)
        self.backend: Backend = backend_for(unet)
        self.called = type(unet).__name__
        self.sites: list[Site] = self.backend.find_sites(unet)
        levels = [site.level for site in self.sites]
        self.finest, self.coarsest = min(levels, default=0), max(levels, default=0)
        self.stages: tuple[Stage, ...] = self.backend.find_stages(unet) if wants_stages else ()

    @property
    def unet(self) -> nn.Module | None:
        """The U-Net; None when it is gone."""
        return self._unet()

    def why_out_of_reach(self) -> Reason | None:
        """Why no call can be accelerated, or None. A model's U-Net may be compiled or exchanged at any time."""
        unet, model = self._unet(), self._model()
        try:
            held = unet if model is None else self._held(model)
        except UnsupportedModelError:
            held = unet
        if is_compiled(unet) or hasattr(held, "_orig_mod"):
            return COMPILED
        return None if held is unet else EXCHANGED

    def must_run(self, stages: Sequence[Stage] | None = None) -> str | None:
        """Why ``stages``, or the whole U-Net, cannot be left out of a call (a clause), or None."""
        unet, sites = self._unet(), self.sites
        if stages is not None:
            below = tuple(f"{name}." for stage in stages for name in stage.names)
            sites = [site for site in sites if site.name.startswith(below)]
        reasons = (stage.out_of_reach(unet) or _hooked(stage) for stage in stages or ())
        return next(filter(None, reasons), None) or class_obstacle(unet) or self.backend.must_run(sites)


def _hooked(stage: Stage) -> str | None:
    """Whose hook would be given what stands for a stage that does not run (a clause), or None."""
    return next(filter(None, map(torch_hook_obstacle, stage.modules, stage.names)), None)
