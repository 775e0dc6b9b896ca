"""What one U-Net call leaves out: composed of what all methods want of it, cut from what it is given, filled up in what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ..backends import Backend
from ..core.reasons import Reason
from ..core.row_slicing import fill_rows, stacked
from ..core.rows import Layout, RowPlan
from ..core.stages import Stage, deep_stages
from .contract import Moment, Runner, StageCut
from .guard import guarded
from .row_plans import Owners, plan_rows


@dataclass(frozen=True)
class CallPlan:
    """rows: the composed `RowPlan`, None when none is dropped. owners: whose plans it is made of, with the rows that each dropped.
    output: rows whose whole prediction is served. stages: whose deep stages are served. in_full: whether what runs must run in whole.
    """

    count: int
    rows: RowPlan | None = None
    owners: Owners = ()
    output: Mapping[int, torch.Tensor] = field(default_factory=dict)
    stages: StageCut | None = None
    in_full: bool = False

    @cached_property
    def keep(self) -> tuple[int, ...]:
        """The rows that run, their deep stages perhaps not."""
        kept = range(self.count) if self.rows is None else self.rows.keep
        return tuple(index for index in kept if index not in self.output)

    @cached_property
    def source(self) -> tuple[int, ...]:
        """For every row the row whose prediction it gets."""
        return tuple(range(self.count)) if self.rows is None else tuple(self.rows.keep[place] for place in self.rows.fill)

    @property
    def leaves_rows_out(self) -> bool:
        return self.rows is not None or bool(self.output)

    @property
    def runs_nothing(self) -> bool:
        return not self.keep

    @property
    def learnt(self) -> tuple[int, ...]:
        """The rows that run in whole."""
        cut = () if self.stages is None else self.stages.rows
        return tuple(index for index in self.keep if index not in cut)


@dataclass
class OpenCall:
    """A U-Net call under way. nested: calls inside this one. answered: whether a method stood in for a stage of it. served: whether it was
    handed out without a run."""

    moment: Moment
    runners: list[Runner]
    plan: CallPlan
    nested: int = 0
    answered: bool = False
    served: bool = False

    @property
    def rows(self) -> Layout:
        """The rows that run."""
        return Layout(self.moment.rows[index] for index in self.plan.keep) if self.plan.leaves_rows_out else self.moment.rows

    def cut(self, backend: Backend, unet: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """The arguments of ``unet`` with those rows alone; None when all run, or none."""
        keep = self.plan.keep
        return backend.cut(unet, args, kwargs, self.plan.count, keep) if self.plan.leaves_rows_out and keep else None

    def prediction(self, like: torch.Tensor) -> torch.Tensor:
        """What a call predicts that runs nothing [rows, ...]; in the dtype of ``like``."""
        return stacked([self.plan.output[source].to(like) for source in self.plan.source])

    def ran_in_whole(self) -> None:
        """It was to be served, and the U-Net ran all the same: what that predicted is nearer than a forecast."""
        self.plan = CallPlan(self.plan.count)

    def filled(self, output: Any) -> Any:
        """The U-Net's output with all rows: dropped ones as those that stand for them, served ones as any."""
        plan = self.plan
        if not plan.leaves_rows_out or not plan.keep:
            return output
        place = {row: at for at, row in enumerate(plan.keep)}
        return fill_rows(output, plan.keep, [place.get(row, 0) for row in plan.source])

    def finish(self, output: Any, backend: Backend) -> Any:
        """The U-Net's output with all rows, shown to the methods."""
        plan, moment = self.plan, self.moment
        output = self.filled(output)
        prediction = backend.prediction_of(output)
        if prediction is None or prediction.shape[0] != plan.count:
            return output
        if plan.output:
            for row, source in enumerate(plan.source):
                if source in plan.output:
                    prediction[row] = plan.output[source].to(prediction)
        for owner, dropped in plan.owners:
            if owner.changes_fill:
                with guarded([owner]):
                    owner.fill_dropped(moment, prediction, dropped)
        for runner in self.runners:
            with guarded([runner]):
                runner.end_call(moment, prediction, () if self.answered else plan.learnt)
        return output


@dataclass(frozen=True)
class Means:
    """What a U-Net call allows.

    tiles: whether calls hold parts of pictures, of which some would be guided and others not. serves: whether whole rows can be served.
    stages: the U-Net's stages; empty where none can be. must_run: asks why some stages, or the whole U-Net, cannot be served (a clause).
    together: asks why the deep stages must run on all rows or on none.
    """

    tiles: bool = False
    serves: bool = False
    stages: tuple[Stage, ...] = ()
    must_run: Callable[..., str | None] = lambda stages=None: None
    together: Callable[[], str | None] = lambda: None


def plan_call(runners: list[Runner], moment: Moment, means: Means) -> CallPlan:
    """What the U-Net call at ``moment`` leaves out."""
    rows, owners = plan_rows(runners, moment, tiles=means.tiles)
    for owner, dropped in owners:
        owner.account.dropped(moment.pass_and_step, len(dropped), kept=owner.changes_fill)
    plan = CallPlan(len(moment.rows), rows, owners)
    # By name, whoever was given first.
    wanted = (r for r in runners if not r.stands_aside)
    serving = sorted((r for r in wanted if (r.serves_calls and means.serves) or r.serves_stages), key=lambda r: r.account.name)
    why = _why_in_full(runners, moment) if serving else None
    if why:
        for runner in serving:
            runner.account.note(Reason.of("run_in_full", "run in full: {why}", why=why))
        return replace(plan, in_full=True)
    for runner in serving:
        with guarded([runner]):
            if runner.serves_calls and means.serves and plan.keep:
                plan = _with_output(plan, runner, moment, means)
    # What is served as a whole has no stages left to cut.
    for runner in serving:
        with guarded([runner]):
            if runner.serves_stages and means.stages and plan.keep and plan.stages is None:
                plan = _with_cut(plan, runner, moment, means)
    return plan


def _with_output(plan: CallPlan, runner: Runner, moment: Moment, means: Means) -> CallPlan:
    output = runner.serve_output(moment, plan.keep)
    if not output:
        return plan
    if not output.keys() <= set(plan.keep):
        raise ValueError(f"{runner.account.name} served the rows {sorted(output)} of {list(plan.keep)}.")
    alone = len(output) < len(plan.keep)
    obstacle = moment.obstacle() if alone else means.must_run()
    if obstacle:
        what = "pictures were not skipped one by one" if alone else "calls that could have been skipped were run"
        runner.account.note(Reason.of("rows_not_alone" if alone else "calls_run", what + ": {why}", why=obstacle))
        runner.refused()
        return plan
    return replace(plan, output={**plan.output, **output})


def _with_cut(plan: CallPlan, runner: Runner, moment: Moment, means: Means) -> CallPlan:
    cut = runner.cut_stages(moment, plan.keep)
    if cut is None or not cut.rows:
        return plan
    deep = deep_stages(means.stages, cut.before) if cut.before.place == "up" else ()
    if not deep or len(cut.hidden) != len(cut.rows) or not set(cut.rows) <= set(plan.keep):
        raise ValueError(f"{runner.account.name} cut the stages before {cut.before} for the rows {cut.rows} of {plan.keep}.")
    obstacle = means.must_run(deep)
    if obstacle is None and len(cut.rows) < len(plan.keep):
        obstacle = moment.obstacle() or means.together()
    if obstacle:
        told = Reason.of("stages_run", "every stage was run: {why}", why=obstacle)
        runner.account.note(told.or_partly("stages_run_at_times", "in some steps every stage was run: {why}"))
        runner.refused()
        return plan
    return replace(plan, stages=cut)


def _why_in_full(runners: list[Runner], moment: Moment) -> str | None:
    """Why what runs must run in whole (a clause)."""
    for runner in runners:
        with guarded([runner]):
            why = runner.needs_full(moment)
            if why:
                return why
    return None
