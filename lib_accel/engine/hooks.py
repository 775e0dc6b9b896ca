"""Putting methods between a U-Net's layers and stages for the length of one call, and taking them out again.

Hooks show the real grid and the raw tokens; an instance-level ``forward`` on attn1, attn2 and ff lets methods merge around a layer or
stand in for it, one on a stage's modules lets them serve the stage. The forward that was there before (somebody else's, or the class's,
looked up at call time) runs wherever nothing is replaced. All of it acts only for the call that armed it: what an interrupt left behind
takes itself out when it is reached.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable

import torch
from torch import nn

from ..core.reasons import Reason
from ..core.sites import Site, is_tracing
from ..core.threads import is_inside
from .contract import Runner, UNetCall
from .copying import clean_copies, drop_clean_copies
from .guard import guarded
from .instance_forward import InstanceForward, unwrap
from .layer_forward import LayerForward
from .stage_forward import DeepPart, StageRun

UNREACHED = Reason.of("unreached", "a call bypassed Accel, as compiled code and patches of attention do")


class Arming:
    """One U-Net call's hooks and wrappers. Nothing of it outlives `disarm`."""

    def __init__(self, call: UNetCall, unet: nn.Module) -> None:
        self._unet = weakref.ref(unet)
        self._thread = threading.get_ident()
        self._call: UNetCall | None = call
        self._hooked: list[tuple[weakref.ref, _GridHook | _TokensHook]] = []
        self._wrapped: list[InstanceForward] = []
        # Weak: an interrupted call is not disarmed, and must not keep its model.
        self._hidden: list[weakref.ref] = []
        # The layers' forwards that were reached in this call. Compiled code passes by what was put on after it was made.
        self._reached: set[tuple[Site, str]] = set()
        self._cut: DeepPart | None = None
        # Stages that were served in this call, and whether one was in rows that otherwise ran in whole.
        self.stages_served = 0
        self.answered = False
        self._channels: dict[Site, int] = {}
        # Whether spatial transformers tell their grids: their hooks then come first, and see that the call is over.
        self.sees_grids = False

    @property
    def call(self) -> UNetCall | None:
        """The call that armed this; None when it is over, and for other threads, whose calls on the same layers run plain."""
        return self._call if threading.get_ident() == self._thread else None

    @call.setter
    def call(self, call: UNetCall | None) -> None:
        self._call = call

    def arm(self, wanted: Iterable[tuple[Site, dict[str, list[Runner]], list[Runner]]]) -> None:
        """Put everything in place. wanted: for each site, the runners by part, and those that want to see the block's raw tokens.

        Whatever is put is noted first: an interrupt in the middle leaves nothing that `disarm` misses.
        """
        seen: set[int] = set()
        for site, parts, watchers in wanted:
            transformer, block = site.transformer, site.block
            if transformer is None or block is None:
                continue
            if self.call is not None and site not in self.call.grids:
                self.sees_grids = True
                self._hook(transformer, _GridHook(self, site))
            self._hook(block, _TokensHook(self, site, watchers))
            for part, runners in parts.items():
                layer = site.part(part)
                if layer is None or id(layer) in seen:
                    continue
                seen.add(id(layer))
                unwrap(layer)
                self._put(LayerForward(self, site, part, runners, layer))

    def arm_stages(self, runs: Iterable[StageRun]) -> None:
        """Put ours on the modules of these stages."""
        for run in runs:
            self._cut = self._cut or run.deep
            for module in run.stage.modules:
                unwrap(module)
            for forward in run.forwards():
                self._put(forward)

    def _put(self, forward: InstanceForward) -> None:
        self._wrapped.append(forward)
        forward.put()

    def _hook(self, module: nn.Module, hook: _GridHook | _TokensHook) -> None:
        self._hooked.append((weakref.ref(module), hook))
        module.register_forward_pre_hook(hook, with_kwargs=True)

    def reached(self, site: Site, part: str) -> None:
        """The forward of ours on this layer runs."""
        self._reached.add((site, part))

    def tell_unreached(self) -> Reason | None:
        """The call came to its end: tell methods where nothing of theirs was reached. Returns why its output cannot be used, or None: what
        stands for served stages went in where it should.
        """
        if self._cut is not None and not self._cut.is_joined:
            return UNREACHED
        if not self.stages_served:
            for forward in self._wrapped:
                if isinstance(forward, LayerForward) and (forward.site, forward.part) not in self._reached:
                    for runner in forward.runners:
                        runner.account.stood_down(UNREACHED, forward.site.name)
        return None

    def hide_from_copies(self) -> None:
        """Copies that are made before `disarm` lack everything of ours."""
        modules = [module for module in self._modules() if module is not None]
        self._hidden = [weakref.ref(module) for module in modules]
        for module in modules:
            ours = (key for key, hook in module._forward_pre_hooks.items() if isinstance(hook, (_GridHook, _TokensHook)))
            clean_copies(module, ours)

    def _modules(self) -> set[nn.Module | None]:
        return {reference() for reference, _ in self._hooked} | {forward.module for forward in self._wrapped}

    def disarm(self) -> None:
        """Remove everything."""
        self.call = None
        for reference in self._hidden:
            module = reference()
            if module is not None:
                drop_clean_copies(module)
        self._hidden = []
        for reference, hook in self._hooked:
            module = reference()
            if module is not None:
                _remove_pre_hook(module, hook)
        for forward in self._wrapped:
            forward.take_off()
        self._hooked, self._wrapped = [], []

    def is_over(self) -> bool:
        """Whether the U-Net call that armed this has ended. An interrupt skips post-hooks and so leaves everything in place."""
        unet = self._unet()
        return unet is None or not (is_inside(threading.get_ident(), unet) or is_inside(self._thread, unet))

    def is_ours(self, call: UNetCall, site: Site, x: object) -> bool:
        """Whether ``x`` is the token tensor of ``site`` in the U-Net call ``call``: [its rows, h*w, C]."""
        grid = call.grids.get(site)
        return grid is not None and isinstance(x, torch.Tensor) and x.shape == (len(call.rows), grid[0] * grid[1], self._channels.get(site))

    def saw_tokens(self, site: Site, x: torch.Tensor) -> None:
        self._channels[site] = x.shape[-1]


class _GridHook:
    """Pre-hook of a spatial transformer: the real height and width, which no token count tells."""

    def __init__(self, arming: Arming, site: Site) -> None:
        self.arming, self.site = arming, site

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if is_tracing():
            return
        if self.arming.is_over():
            self.arming.disarm()
        call = self.arming.call
        x = call and call.backend.tokens_of(args, kwargs)
        if isinstance(x, torch.Tensor) and x.ndim == 4:
            call.grids[self.site] = (x.shape[2], x.shape[3])


class _TokensHook:
    """Pre-hook of a block: the raw tokens, before its first norm."""

    def __init__(self, arming: Arming, site: Site, watchers: list[Runner]) -> None:
        self.arming, self.site, self.watchers = arming, site, watchers

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        arming, site = self.arming, self.site
        if is_tracing():
            return
        if not arming.sees_grids and arming.is_over():
            arming.disarm()
        call = arming.call
        x = call and call.backend.tokens_of(args, kwargs)
        if not isinstance(x, torch.Tensor) or x.ndim != 3:
            return
        arming.saw_tokens(site, x)
        if not arming.is_ours(call, site, x):
            return
        for runner in self.watchers:
            if runner.stopped:
                continue
            with guarded([runner], site.name):
                runner.block_tokens(call, site, x)


def _remove_pre_hook(module: nn.Module, hook: Callable) -> None:
    """By identity, not by handle: an interrupt can come between the registering of a hook and the keeping of its handle."""
    for key in [key for key, value in module._forward_pre_hooks.items() if value is hook]:
        module._forward_pre_hooks.pop(key, None)
        module._forward_pre_hooks_with_kwargs.pop(key, None)
