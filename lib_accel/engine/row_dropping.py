"""The rows of a U-Net call that methods drop: chosen before it, cut from what it is given, filled up in what it returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..core.errors import in_words, strict
from ..core.row_slicing import cut_rows, fill_rows, prediction_of
from ..core.rows import GUIDANCE_KEPT, Layout, RowPlan
from .contract import Moment, Runner


@dataclass
class OpenCall:
    """A U-Net call under way. plan: which of ``moment``'s rows run, None for all; owner: whose plan. nested: calls inside this one."""

    moment: Moment
    runners: list[Runner]
    plan: RowPlan | None = None
    owner: Runner | None = None
    nested: int = 0

    @property
    def rows(self) -> Layout:
        """The rows that run."""
        return self.moment.rows if self.plan is None else Layout(self.moment.rows[index] for index in self.plan.keep)

    def cut(self, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """The U-Net's arguments with those rows alone; None when all run."""
        return None if self.plan is None else cut_rows((args, kwargs), len(self.moment.rows), self.plan.keep)

    def finish(self, output: Any) -> Any:
        """The U-Net's output with all rows. Methods see the prediction in it: whoever dropped rows alone, or else all."""
        if self.plan is not None:
            output = fill_rows(output, self.plan.keep, self.plan.fill)
        prediction = prediction_of(output)
        if prediction is None or prediction.shape[0] != len(self.moment.rows):
            return output
        # Rows that another method's plan filled say nothing of guidance.
        for runner in self.runners if self.owner is None else [self.owner]:
            with blaming(runner):
                runner.predicted(self.moment, prediction, runner is self.owner)
        return output


@contextmanager
def blaming(runner: Runner) -> Iterator[None]:
    """An error of our own code switches ``runner`` off for the rest of the job; ACCEL_STRICT=1 raises it."""
    try:
        yield
    except Exception as error:
        if strict():
            raise
        runner.account.failed = in_words(error)


def choose_plan(
    runners: Iterable[Runner], moment: Moment, by_host: bool = False, tiles: bool = False, adds_direction: bool = False
) -> tuple[RowPlan | None, Runner | None]:
    """The first plan that one of ``runners`` has for ``moment``, and whose it is. Every runner is told that the call begins.

    by_host: the host drops the rows and combines what is left, so plans that only a host, or only our hooks, can carry out are told apart;
    it tells what it left out.
    adds_direction: such a host also adds what a method would put into the dropped rows.
    tiles: whether calls hold parts of pictures, of which some would be guided and others not.
    """
    chosen: tuple[RowPlan | None, Runner | None] = (None, None)
    for runner in runners:
        plan = None
        with blaming(runner):
            plan = runner.begin(moment)
        if plan is None or chosen[0] is not None or moment.dropped:
            continue
        if moment.guided_because:
            runner.account.note(GUIDANCE_KEPT + moment.guided_because)
            continue
        if by_host and runner.changes_fill and not adds_direction:
            continue
        if not by_host and not plan.exact:
            runner.account.note(GUIDANCE_KEPT + "with AND prompts only the host can combine what is left")
            continue
        if tiles:
            runner.account.note(GUIDANCE_KEPT + "the U-Net runs more often than was said")
            continue
        chosen = (plan, runner)
    if chosen[0] is not None and not by_host:
        chosen[1].account.dropped(moment.pass_and_step, chosen[0].dropped, kept=chosen[1].changes_fill)
    return chosen
