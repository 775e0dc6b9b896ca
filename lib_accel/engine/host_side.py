"""What a host tells an accelerator, and what it may ask: steps, rows, which of them to run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..core.rows import Row, RowPlan
from .clock import Told, Whereabouts
from .contract import Moment, Runner
from .row_dropping import choose_plan


class HostSide:
    """The host's side of an accelerator of ``model``, with its methods at work. The model is held weakly."""

    def __init__(self, model: Any, runners: list[Runner]) -> None:
        self._runners = runners
        self._where = Whereabouts(model)
        self._planned: tuple[Runner | None, Moment | None] = (None, None)
        # Whose plan a host was given, until it tells the rows that it runs.
        self._uncounted: tuple[Runner, Moment] | None = None

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
    ) -> None:
        """The U-Net calls that follow belong to step ``index`` (from 0) of ``total``. ValueError when out of range.

        rows: all rows of the step in the order in which its U-Net calls take them, whatever the number of calls; None: unknown.
        guidance: the guidance scale. sigma: the noise level, relative to the picture. None: unknown. settled: the step from which on the
        prompts stay as they are. guided_because: why no row may be dropped in this step (a clause). dropped: `row_plan` was carried out.
        """
        self._where.tell(index, total, rows, Told(guidance, sigma, settled, guided_because, dropped))
        if self._uncounted is not None and rows is not None:
            owner, moment = self._uncounted
            # A host may run more rows than the plan asks for.
            if len(rows) < len(moment.rows):
                owner.account.dropped(moment.pass_and_step, len(moment.rows) - len(rows), kept=owner.changes_fill)
        self._uncounted = None

    def row_plan(self, adds_direction: bool = False) -> RowPlan | None:
        """Which rows of the step told last are to run, None for all; for hosts that drop rows before they batch.

        Whoever asks carries it out, combines what is left unguided, and tells the step again with the rows that run (``dropped=True``).
        adds_direction: such a host also guides by `direction`. Hosts that do not ask need not: the U-Net's own hooks cut and fill
        whatever a single call can do without.
        """
        moment = self._where.at_step()
        if moment is None:
            return None
        plan, owner = choose_plan(self._active(moment), moment, True, self._where.tiles, adds_direction)
        self._planned = (owner, moment)
        self._uncounted = None if plan is None else (owner, moment)
        return plan

    def direction(self, image: int) -> torch.Tensor | None:
        """What picture ``image`` is guided by in the step that `row_plan` was asked about last, in place of cond - uncond.

        Predicted noise [channels, h, w] in float32; None: by nothing, the step is unguided.
        """
        owner, moment = self._planned
        return None if owner is None else owner.direction(moment, image)

    def switch_off(self, methods: tuple[type, ...], why: str) -> None:
        """Methods whose settings are of these types do nothing more until the accelerator is removed. why: a clause for the report."""
        for runner in self._runners:
            if isinstance(runner.config, methods) and not runner.account.off:
                runner.account.off = why
                runner.reset()

    def new_pass(self) -> None:
        """The next U-Net call begins a pass (a new picture, a hires pass), whatever its step. What was kept for the last is freed."""
        self._where.new_pass()
        for runner in self._runners:
            runner.reset()

    @property
    def rows_taken(self) -> int:
        """How many rows the U-Net calls of the step told last held so far."""
        return self._where.rows_taken

    def _active(self, moment: Moment) -> list[Runner]:
        """The methods at work at ``moment``; a new pass begins for all of them here."""
        if moment.step.new_pass:
            for runner in self._runners:
                runner.reset()
        return [r for r in self._runners if moment.step.within(r.window) and not (r.account.failed or r.account.off)]
