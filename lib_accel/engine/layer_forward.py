"""What stands in the place of a layer's forward for one U-Net call: methods merge around the layer, stand in for it, or only watch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..core.errors import in_words, strict
from ..core.reasons import Reason
from ..core.sites import Site, is_tracing
from .contract import LayerAtWork, Runner, UNetCall
from .guard import blame
from .instance_forward import InstanceForward

if TYPE_CHECKING:
    from .hooks import Arming

OTHER_TOKENS = Reason.of("other_tokens", "the layer was given other tokens than its block")


class LayerForward(InstanceForward):
    """Instance-level ``forward`` of one layer for one U-Net call: serve > reduce (merge … unmerge) > compute."""

    __slots__ = ("arming", "part", "runners", "site")

    def __init__(self, arming: Arming, site: Site, part: str, runners: list[Runner], layer: nn.Module) -> None:
        super().__init__(layer)
        self.arming, self.site, self.part, self.runners = arming, site, part, runners

    def __call__(self, *args, **kwargs):
        # First: nothing of ours is compiled along.
        call = None if is_tracing() else self.arming.call
        if call is None:
            return self.original(*args, **kwargs)
        runners = [r for r in self.runners if not r.stopped]
        self.arming.reached(self.site, self.part)
        if not runners:
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
            blame(runners, failure, self.site.name)
        return out

    def _act(self, call: UNetCall, runners: list[Runner], args: tuple, kwargs: dict) -> torch.Tensor | None:
        """The layer's output, or None when no method has anything to do here."""
        given = call.backend.read_layer(self.part, args, kwargs)
        if not self.arming.is_ours(call, self.site, given.x):
            return self._stand_down(runners, OTHER_TOKENS)

        def own(*tokens_and_context: torch.Tensor) -> torch.Tensor:
            args, kwargs = given.with_tokens(*tokens_and_context)
            return self.original(*args, **kwargs)

        layer = LayerAtWork(self.part, self._module(), given.x, given.x, own, given.has_context, given.context)
        for runner in runners:
            served = runner.serve(call, self.site, layer)
            if served is not None:
                _count(call, runner, given.x.shape[1], 0)
                return served
        # Outputs may be kept and served whatever the layer was given; tokens and computations of unknown calls stay as they are.
        changing = [r for r in runners if r.reduces or r.computes or not r.observes]
        out = self._stand_down(changing, given.own) if given.own else self._reduce_and_compute(call, changing, layer)
        watching = [r for r in runners if r.observes and not call.repeats]
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


def _count(call: UNetCall, runner: Runner, tokens_in: int, tokens_run: int) -> None:
    account = runner.account
    if call.repeats:
        return
    account.calls += 1
    account.tokens_in += tokens_in
    account.tokens_run += tokens_run
    account.steps.add(call.pass_and_step)
