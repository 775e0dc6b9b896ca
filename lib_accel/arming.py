"""Putting methods between a U-Net's layers for the length of one call, and taking them out again.

Hooks show the real grid and the raw tokens; an instance-level ``forward`` on attn1, attn2 and ff lets methods merge around a layer or
stand in for it. The forward that was there before (somebody else's, or the class's, looked up at call time) runs wherever nothing is
replaced. All of it acts only for the call that armed it: what an interrupt left behind takes itself out when it is reached.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import nn

from .methods.base import LayerAtWork, Runner, UNetCall
from .sites import Site
from .threads import is_inside


def strict() -> bool:
    """Whether errors of our own code are raised (ACCEL_STRICT=1) instead of being reported and worked around."""
    return os.environ.get("ACCEL_STRICT", "") not in ("", "0")


def in_words(error: Exception) -> str:
    """An error as a clause of the report."""
    text = " ".join(str(error).split())
    return type(error).__name__ + (f": {text[:200]}" if text else "")


class Arming:
    """One U-Net call's hooks and wrappers. Nothing of it outlives `disarm`."""

    def __init__(self, call: UNetCall, unet: nn.Module) -> None:
        self._unet = weakref.ref(unet)
        self._thread = threading.get_ident()
        self.call: UNetCall | None = call
        self._hooked: list[tuple[weakref.ref, _GridHook | _TokensHook]] = []
        self._wrapped: list[tuple[weakref.ref, LayerForward]] = []
        self._channels: dict[Site, int] = {}

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
                self._hook(transformer, _GridHook(self, site))
            self._hook(block, _TokensHook(self, site, watchers))
            for part, runners in parts.items():
                layer = site.part(part)
                if layer is None or id(layer) in seen:
                    continue
                seen.add(id(layer))
                unwrap(layer)
                forward = LayerForward(self, site, part, runners, layer)
                self._wrapped.append((weakref.ref(layer), forward))
                layer.__dict__["forward"] = forward

    def _hook(self, module: nn.Module, hook: _GridHook | _TokensHook) -> None:
        self._hooked.append((weakref.ref(module), hook))
        module.register_forward_pre_hook(hook, with_kwargs=True)

    def disarm(self) -> None:
        """Remove everything. A forward that somebody put over ours meanwhile stays; ours, below it, only passes on."""
        self.call = None
        for reference, hook in self._hooked:
            module = reference()
            if module is not None:
                _remove_pre_hook(module, hook)
        for reference, forward in self._wrapped:
            layer = reference()
            if layer is not None and layer.__dict__.get("forward") is forward:
                unwrap(layer)
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

    def blame(self, site: Site, runners: list[Runner], reason: str) -> None:
        """Our own code failed at ``site``: switch ``runners`` off for the rest of the job and note why."""
        for runner in runners:
            runner.account.failed = f"{reason} (at {site.name})"


class _GridHook:
    """Pre-hook of a spatial transformer: the real height and width, which no token count tells."""

    def __init__(self, arming: Arming, site: Site) -> None:
        self.arming, self.site = arming, site

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
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
        arming, site, call = self.arming, self.site, self.arming.call
        x = call and call.backend.tokens_of(args, kwargs)
        if not isinstance(x, torch.Tensor) or x.ndim != 3:
            return
        arming.saw_tokens(site, x)
        if not arming.is_ours(call, site, x):
            return
        for runner in self.watchers:
            if runner.account.failed:
                continue
            try:
                runner.block_tokens(call, site, x)
            except Exception as error:
                if strict():
                    raise
                arming.blame(site, [runner], in_words(error))


class LayerForward:
    """Instance-level ``forward`` of one layer for one U-Net call: serve > reduce (merge … unmerge) > compute."""

    def __init__(self, arming: Arming, site: Site, part: str, runners: list[Runner], layer: nn.Module) -> None:
        self.arming, self.site, self.part, self.runners = arming, site, part, runners
        self.previous = layer.__dict__.get("forward")
        self._layer = weakref.ref(layer)

    def original(self, *args, **kwargs):
        """The forward that the layer had, as it is now."""
        if self.previous is not None:
            return self.previous(*args, **kwargs)
        layer = self._layer()
        return type(layer).forward(layer, *args, **kwargs)

    def __call__(self, *args, **kwargs):
        call = self.arming.call
        runners = [r for r in self.runners if not r.account.failed]
        if call is None or not runners:
            return self.original(*args, **kwargs)
        failure = None
        try:
            out = self._act(call, runners, args, kwargs)
        except Exception as error:
            if strict():
                raise
            out, failure = None, in_words(error)
        if out is not None:
            return out
        # An error of the layer itself comes again here, on the layer's own input, and goes its way; nobody is blamed for it then.
        out = self.original(*args, **kwargs)
        if failure:
            self.arming.blame(self.site, runners, failure)
        return out

    def _act(self, call: UNetCall, runners: list[Runner], args: tuple, kwargs: dict) -> torch.Tensor | None:
        """The layer's output, or None when no method has anything to do here."""
        given = call.backend.read_layer(self.part, args, kwargs)
        if not self.arming.is_ours(call, self.site, given.x):
            return self._stand_down(runners, "the layer was given other tokens than its block")

        def own(*tokens_and_context: torch.Tensor) -> torch.Tensor:
            args, kwargs = given.with_tokens(*tokens_and_context)
            return self.original(*args, **kwargs)

        layer = LayerAtWork(self.part, self._layer(), given.x, given.x, own, given.has_context, given.context)
        for runner in runners:
            served = runner.serve(call, self.site, layer)
            if served is not None:
                _count(call, runner, given.x.shape[1], 0)
                return served
        # Outputs may be kept and served whatever the layer was given; tokens and computations of unknown calls stay as they are.
        changing = [r for r in runners if r.reduces or r.computes or not r.observes]
        out = self._stand_down(changing, given.own) if given.own else self._reduce_and_compute(call, changing, layer)
        watching = [r for r in runners if r.observes]
        if watching and out is None:
            out = own(given.x)
        for runner in watching:
            runner.observe(call, self.site, layer, out)
        return out

    def _reduce_and_compute(self, call: UNetCall, runners: list[Runner], layer: LayerAtWork) -> torch.Tensor | None:
        """The layer's output, un-merged; None when no method changes anything."""
        site, part = self.site, self.part
        reduction = reducer = None
        for runner in runners:
            reduction = runner.reduce(call, site, part)
            if reduction is not None:
                reducer = runner
                layer = replace(layer, x=reduction.merge(layer.tokens))
                break
        out = computer = None
        for runner in runners:
            out = runner.compute(call, site, layer)
            if out is not None:
                computer = runner
                break
        if out is None:
            if reduction is None:
                return None
            out = layer.own(layer.x)
        if reduction is not None:
            out = reduction.unmerge(out)
        for runner in {reducer, computer} - {None}:
            _count(call, runner, layer.tokens.shape[1], layer.x.shape[1])
        return out

    def _stand_down(self, runners: list[Runner], reason: str) -> None:
        for runner in runners:
            runner.account.stood_down(reason, self.site.name)


def unwrap(layer: nn.Module) -> None:
    """Take our wrapper off ``layer``; also one of an earlier call that somebody kept and put back. Others' forwards stay."""
    forward = layer.__dict__.get("forward")
    if not isinstance(forward, LayerForward):
        return
    while isinstance(forward, LayerForward):
        forward = forward.previous
    if forward is None:
        del layer.__dict__["forward"]
    else:
        layer.__dict__["forward"] = forward


def _remove_pre_hook(module: nn.Module, hook: Callable) -> None:
    """By identity, not by handle: an interrupt can come between the registering of a hook and the keeping of its handle."""
    for key in [key for key, value in module._forward_pre_hooks.items() if value is hook]:
        module._forward_pre_hooks.pop(key, None)
        module._forward_pre_hooks_with_kwargs.pop(key, None)


def _count(call: UNetCall, runner: Runner, tokens_in: int, tokens_run: int) -> None:
    account = runner.account
    account.calls += 1
    account.tokens_in += tokens_in
    account.tokens_run += tokens_run
    account.steps.add(call.pass_and_step)
