"""Our one patch in a host of the Forge family: a conditioning modifier on the U-Net's patcher, for the length of a pass.

A patcher is cloned, changed and assigned back, and the host forgets it at the end of the pass. Clones copy their options in depth, so what
is registered is a plain function: a bound method would be copied with everything that it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...core.forge_models import patcher_of

MODIFIERS = "conditioning_modifiers"
# (model, x, sigma, uncond, cond, cond_scale, model_options, seed), which is also what is returned.
Call = tuple[Any, Any, Any, Any, Any, Any, Any, Any]


class Patch:
    """See the module. modifier: a plain function from `Call` to `Call`."""

    def __init__(self, modifier: Callable[..., Call]) -> None:
        self._modifier = modifier
        # (objects that hold patchers, the patcher that was there, ours).
        self._put: list[tuple[Any, Any, Any]] = []

    def see_to(self, sd_model: Any) -> None:
        """It is on the patcher of ``sd_model``, the last of all modifiers, so that it sees what the others made of the call."""
        patcher = patcher_of(sd_model)
        modifiers = patcher.model_options.get(MODIFIERS) or []
        if modifiers and modifiers[-1] is self._modifier:
            return
        if self._modifier in modifiers:
            # Somebody cloned ours and added to it; the list is this pass's own.
            modifiers.remove(self._modifier)
            modifiers.append(self._modifier)
            return
        ours = patcher.clone()
        ours.model_options = {**ours.model_options, MODIFIERS: [*(ours.model_options.get(MODIFIERS) or []), self._modifier]}
        sd_model.forge_objects.unet = ours
        self._put.append((sd_model.forge_objects, patcher, ours))

    def take_off(self) -> None:
        """The patchers are as they were; where somebody cloned ours, that clone has no modifier of ours any more."""
        while self._put:
            objects, before, ours = self._put.pop()
            if objects.unet is ours:
                objects.unet = before
                continue
            options = objects.unet.model_options
            if self._modifier in (options.get(MODIFIERS) or []):
                options[MODIFIERS].remove(self._modifier)
                if not options[MODIFIERS] and MODIFIERS not in before.model_options:
                    del options[MODIFIERS]
