"""What a host tells an accelerator, and what it may ask: steps, rows, which of them to run."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch

from ..core.rows import Row, RowPlan
from ..core.samplers import Sampler, sampler_named
from .clock import Told, Whereabouts
from .contract import Moment, Runner
from .course import Course
from .row_plans import Owners, plan_rows


class HostSide:
    """The host's side of an accelerator of ``model``, with its methods at work. The model is held weakly.

    several: see `PipelineView`. where: the steps, rows and noise levels of its calls. course: what methods are told of passes and steps.
    """

    def __init__(self, model: Any, runners: list[Runner], several: bool = False) -> None:
        self._runners = runners
        self.where = Whereabouts(model, several)
        self.course = Course(runners)
        # The plan that a host was given, and whether it told the rows that it runs.
        self._planned: tuple[Owners, Moment | None] = ((), None)
        self._uncounted = False

    def step(
        self,
        index: int,
        total: int,
        rows: Sequence[Row] | None = None,
        guidance: float | None = None,
        sigma: float | None = None,
        *,
        settled: int = 0,
        guided_because: str | None = None,
        dropped: bool = False,
        evaluation: int = 0,
        sampler: Sampler | str | None = None,
        sigmas: Sequence[float] | None = None,
        scales: tuple[float, float | None] | None = None,
        state: Hashable = None,
        whole_because: str | None = None,
    ) -> None:
        """The U-Net calls that follow belong to step ``index`` (from 0) of ``total``. ValueError when out of range.

        rows: all rows of the step in the order in which its U-Net calls take them, whatever the number of calls; None: unknown.
        guidance: the guidance scale. sigma: the noise level, relative to the picture. None: unknown. settled: the step from which on the
        prompts stay as they are. guided_because: why no row may be dropped in this step (a clause). dropped: `row_plan` was carried out.
        evaluation: 1 in the second evaluation of a sampler that evaluates twice in a step.

        For methods that leave out whole steps: sampler: its name, as the WebUI lists it. sigmas: the noise level of every step of the pass,
        and after them where the last one ends. scales: (guidance scale, InstructPix2Pix's scale of the picture) by which rows are combined,
        where ``guidance`` does not say so. state: of whatever else predictions depend on; what was kept under another is forgotten,
        by every method.
        whole_because: why no step may be left out as a whole (a clause).
        """
        if isinstance(sampler, str):
            sampler = sampler_named(sampler) or Sampler(sampler, known=False)
        levels = None if sigmas is None else tuple(float(level) for level in sigmas)
        more = (sampler, levels, scales, state, whole_because)
        self.where.tell(index, total, rows, Told(guidance, sigma, settled, guided_because, dropped, evaluation, *more))
        if self._uncounted and rows is not None:
            owners, moment = self._planned
            # A host may run more rows than the plan asks for.
            left_out = len(moment.rows) - len(rows)
            for owner, dropped in owners:
                count = min(len(dropped), left_out)
                if count > 0:
                    owner.account.dropped(moment.pass_and_step, count, kept=owner.changes_fill)
                left_out -= count
        self._uncounted = False

    def row_plan(self, adds_direction: bool = False) -> RowPlan | None:
        """Which rows of the step told last are to run, None for all; for hosts that drop rows before they batch.

        Whoever asks carries it out, combines what is left unguided, and tells the step again with the rows that run (``dropped=True``).
        adds_direction: such a host also guides by `direction`. Hosts that do not ask need not: the U-Net's own hooks cut and fill
        whatever a single call can do without.
        """
        moment = self.where.at_step()
        if moment is None:
            return None
        plan, owners = plan_rows(self.course.at(moment), moment, True, self.where.tiles, adds_direction)
        self._planned, self._uncounted = (owners, moment), plan is not None
        return plan

    def direction(self, image: int) -> torch.Tensor | None:
        """What picture ``image`` is guided by in the step that `row_plan` was asked about last, in place of cond - uncond.

        Predicted noise [channels, h, w] in float32; None: by nothing, the step is unguided.
        """
        owners, moment = self._planned
        for owner, dropped in owners:
            if any(moment.rows[row].image == image for row in dropped):
                return owner.direction(moment, image)
        return None

    def switch_off(self, methods: tuple[type, ...], why: str) -> None:
        """Methods whose settings are of these types do nothing more until the accelerator is removed. why: a clause for the report."""
        for runner in self._runners:
            if isinstance(runner.config, methods):
                runner.stop(why)

    def new_pass(self) -> None:
        """The next U-Net call begins a pass (a new picture, a hires pass), whatever its step. What was kept for the last is freed."""
        self.course.forget()
        self.where.new_pass()

    @property
    def rows_taken(self) -> int:
        """How many rows the U-Net calls of the step told last held so far."""
        return self.where.rows_taken
