"""A second run of a call's shallow stages alone, behind the call: it tells a method how far off a shallow call would have been."""

from __future__ import annotations

import torch
from torch import nn

from ..core.row_slicing import fill_rows
from ..core.stages import deep_stages
from .auto import AutoChoice
from .call_plan import CallPlan, OpenCall
from .contract import HostTraits, Runner, StageCut, UNetCall
from .dispatch import wanted_sites
from .guard import guarded
from .hooks import Arming
from .shared import Shared
from .stage_forward import stage_runs
from .subject import Subject


class SecondRuns:
    """Those of one U-Net. Nothing is learnt or counted in them but what they are for: other methods do to layers what they did before."""

    def __init__(self, subject: Subject, traits: HostTraits, auto: AutoChoice, shared: Shared) -> None:
        self._subject, self._traits, self._auto = subject, traits, auto
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
        subject, plan, moment = self._subject, opened.plan, opened.moment
        called = (subject.backend, self._traits, moment.step, opened.rows, moment.pass_and_step, subject.finest)
        call = UNetCall(*called, repeats=True)
        grid = subject.backend.grid_of(unet, moment.sample)
        if grid is not None:
            call.grids.update(dict.fromkeys(subject.sites, grid))
        arming = Arming(call, unet)
        try:
            again = CallPlan(plan.count, plan.rows, plan.owners, plan.output, cut)
            arming.arm_stages(stage_runs(arming, subject.stages, (), again, subject.must_run))
            arming.arm(wanted_sites(subject, opened.runners, self._traits, self._auto, moment.sample))
            output = unet.forward(*args, **kwargs)
        finally:
            arming.disarm()
        if arming.tell_unreached():
            return None
        if plan.leaves_rows_out:
            place = {row: at for at, row in enumerate(plan.keep)}
            output = fill_rows(output, plan.keep, [place.get(row, 0) for row in range(plan.count)])
        return subject.backend.prediction_of(output)
