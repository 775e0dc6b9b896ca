"""A second run of a call's shallow stages alone, behind the call: it tells a method how far off a shallow call would have been."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ..core.stages import deep_stages
from .armer import Armer
from .call_plan import OpenCall
from .contract import Runner, StageCut
from .guard import guarded
from .shared import Shared
from .subject import Subject


class SecondRuns:
    """Those of one U-Net. Nothing is learnt or counted in them but what they are for: other methods do to layers what they did before."""

    def __init__(self, subject: Subject, armer: Armer, shared: Shared) -> None:
        self._subject, self._armer = subject, armer
        self._tally, self._watch = shared.tally, shared.watch
        # Whether one is under way.
        self.running = False

    def behind(self, opened: OpenCall, args: tuple, kwargs: dict) -> None:
        """Make one behind this call, which was given ``args`` and ``kwargs``, if somebody wants one."""
        unet = self._subject.unet
        for runner in opened.runners:
            with guarded([runner]):
                cut = self._wanted(runner, opened)
                if cut is None or unet is None:
                    continue
                self._watch.start(opened.moment.sample.device)
                self.running = True
                try:
                    prediction = self._run(unet, opened, cut, args, kwargs)
                finally:
                    self.running = False
                    self._watch.stop()
                self._tally.calls_measured += 1
                if prediction is not None and prediction.shape[0] == opened.plan.count:
                    runner.measured(opened.moment, prediction, opened.plan.learnt)

    def _wanted(self, runner: Runner, opened: OpenCall) -> StageCut | None:
        """What ``runner`` wants served in one behind this call, where that can be."""
        plan = opened.plan
        if not runner.serves_stages or opened.answered or opened.nested or plan.in_full or not plan.learnt:
            return None
        if not all(other.repeatable for other in opened.runners):
            return None
        cut = runner.second_cut(opened.moment, plan.keep, plan.learnt)
        if cut is None or cut.rows != plan.keep or self._subject.must_run(deep_stages(self._subject.stages, cut.before)):
            return None
        return cut

    def _run(self, unet: nn.Module, opened: OpenCall, cut: StageCut, args: tuple, kwargs: dict) -> torch.Tensor | None:
        """[all rows, ...] what the shallow stages predict; rows that did not run in the call get another's."""
        plan = opened.plan
        arming = self._armer.begin(opened, repeats=True)
        try:
            self._armer.put(arming, opened, replace(plan, stages=cut), ())
            output = unet.forward(*args, **kwargs)
        finally:
            arming.disarm()
        return None if arming.tell_unreached() else self._subject.backend.prediction_of(opened.filled(output))
