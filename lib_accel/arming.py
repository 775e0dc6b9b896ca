"""Putting methods between a U-Net's layers for the length of one call, and taking them out again.

Hooks show the real grid and the raw tokens; an instance-level ``forward`` on attn1, attn2 and ff lets methods merge around a layer or
stand in for it. The forward that was there before (somebody else's, or the class's, looked up at call time) runs wherever nothing is
replaced. A wrapper acts only for the call that armed it, so one that an interrupt left behind is inert.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable

import torch
from torch import nn

from .methods.base import Runner, UNetCall
from .sites import Site


def strict() -> bool:
    """Whether errors of our own code are raised (ACCEL_STRICT=1) instead of being reported and worked around."""
    return os.environ.get("ACCEL_STRICT", "") not in ("", "0")


class Arming:
    """One U-Net call's hooks and wrappers. Nothing of it outlives `disarm`."""

    def __init__(self, call: UNetCall, wanted: Iterable[tuple[Site, dict[str, list[Runner]], list[Runner]]]) -> None:
        """wanted: for each site, the runners by part, and those that want to see the block's raw tokens."""
        self.call: UNetCall | None = call
        self._handles: list = []
        self._wrapped: list[tuple[weakref.ref, LayerForward]] = []
        self._channels: dict[Site, int] = {}
        watched: set[int] = set()
        for site, parts, watchers in wanted:
            transformer, block = site.transformer, site.block
            if transformer is None or block is None:
                continue
            self._handles.append(transformer.register_forward_pre_hook(_GridHook(self, site), with_kwargs=True))
            self._handles.append(block.register_forward_pre_hook(_TokensHook(self, site, watchers), with_kwargs=True))
            for part, runners in parts.items():
                layer = site.part(part)
                if layer is None or id(layer) in watched:
                    continue
                watched.add(id(layer))
                forward = LayerForward(self, site, part, runners, layer)
                layer.__dict__["forward"] = forward
                self._wrapped.append((weakref.ref(layer), forward))

    def disarm(self) -> None:
        """Remove everything. A forward that somebody put over ours meanwhile stays; ours, below it, only passes on."""
        self.call = None
        for handle in self._handles:
            handle.remove()
        for reference, forward in self._wrapped:
            layer = reference()
            if layer is not None and layer.__dict__.get("forward") is forward:
                if forward.previous is None:
                    del layer.__dict__["forward"]
                else:
                    layer.__dict__["forward"] = forward.previous
        self._handles, self._wrapped = [], []

    def is_ours(self, site: Site, x: object) -> bool:
        """Whether ``x`` is the token tensor of ``site`` in this U-Net call: [its rows, h*w, C]."""
        grid = self.call.grids.get(site)
        return (
            grid is not None
            and isinstance(x, torch.Tensor)
            and x.shape == (len(self.call.rows), grid[0] * grid[1], self._channels.get(site))
        )

    def saw_tokens(self, site: Site, x: torch.Tensor) -> None:
        self._channels[site] = x.shape[-1]

    def guard(self, site: Site, runners: list[Runner], error: Exception) -> None:
        """Our own code failed at ``site``: raise when strict, else switch ``runners`` off for the rest of the job and note why."""
        if strict():
            raise error
        for runner in runners:
            runner.account.failed = f"{type(error).__name__} at {site.name}: {str(error)[:200]}"


class _GridHook:
    """Pre-hook of a spatial transformer: the real height and width, which no token count tells."""

    def __init__(self, arming: Arming, site: Site) -> None:
        self.arming, self.site = arming, site

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
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
        x = arming.call and arming.call.backend.tokens_of(args, kwargs)
        if not isinstance(x, torch.Tensor) or x.ndim != 3:
            return
        arming.saw_tokens(site, x)
        if not arming.is_ours(site, x):
            return
        for runner in self.watchers:
            if runner.account.failed:
                continue
            try:
                runner.block_tokens(arming.call, site, x)
            except Exception as error:
                arming.guard(site, [runner], error)


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
        arming = self.arming
        runners = [r for r in self.runners if not r.account.failed]
        if arming.call is None or not runners:
            return self.original(*args, **kwargs)
        given = arming.call.backend.read_layer(self.part, args, kwargs)
        if not arming.is_ours(self.site, given.x):
            self._stand_down(runners, "the layer was given other tokens than its block")
        elif given.own:
            self._stand_down(runners, given.own)
        else:
            try:
                out = self._through_phases(runners, given)
            except Exception as error:
                arming.guard(self.site, runners, error)
            else:
                if out is not None:
                    return out
        return self.original(*args, **kwargs)

    def _through_phases(self, runners: list[Runner], given) -> torch.Tensor | None:
        """The layer's output, or None when no method has anything to do here."""
        call, site, part = self.arming.call, self.site, self.part
        for runner in runners:
            served = runner.serve(call, site, part)
            if served is not None:
                self._count(runner, given.x.shape[1], 0)
                return served
        reduction = reducer = None
        for runner in runners:
            reduction = runner.reduce(call, site, part)
            if reduction is not None:
                reducer = runner
                break
        x = given.x if reduction is None else reduction.merge(given.x)
        out = computer = None
        for runner in runners:
            out = runner.compute(call, site, part, self._layer(), given, x)
            if out is not None:
                computer = runner
                break
        if out is None:
            if reduction is None:
                return None
            args, kwargs = given.with_tokens(x)
            out = self.original(*args, **kwargs)
        for runner in {reducer, computer} - {None}:
            self._count(runner, given.x.shape[1], x.shape[1])
        return out if reduction is None else reduction.unmerge(out)

    def _count(self, runner: Runner, tokens_in: int, tokens_run: int) -> None:
        account = runner.account
        account.calls += 1
        account.tokens_in += tokens_in
        account.tokens_run += tokens_run
        account.steps.add(self.arming.call.pass_and_step)

    def _stand_down(self, runners: list[Runner], reason: str) -> None:
        for runner in runners:
            runner.account.stood_down(reason, self.site.name)
