"""What stands in the place of the forwards of a stage for one U-Net call: it is served, runs on some rows alone, or is only watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..core.placeholder import Placeholder
from ..core.row_slicing import cut_rows, stacked
from ..core.rows import Layout
from ..core.sites import is_tracing
from ..core.stages import Stage, deep_stages
from .call_plan import CallPlan
from .contract import Runner, StageCut, UNetCall
from .guard import guarded
from .instance_forward import InstanceForward

if TYPE_CHECKING:
    from .hooks import Arming


class DeepPart:
    """The deep stages of a call in which some rows are served what leaves them.

    cut: whose rows are indices into the rows that run. count: of these.
    """

    def __init__(self, cut: StageCut, count: int) -> None:
        self.hidden, self.count = cut.hidden, count
        self.served = {row: place for place, row in enumerate(cut.rows)}
        self.run = tuple(row for row in range(count) if row not in self.served)
        self._call: UNetCall | None = None
        # Whether what is served went into the call.
        self.is_joined = False

    def call_of(self, whole: UNetCall) -> UNetCall:
        """The call as layers see it that run on some of the rows: what methods share in it is of other rows."""
        if self._call is None:
            self._call = replace(whole, rows=Layout(whole.rows[row] for row in self.run), shared={})
        return self._call

    def joined(self, out: torch.Tensor | None) -> torch.Tensor:
        """[rows, C, h, w] what enters the first shallow up stage. out: of the rows that ran the deep stages, None when none did."""
        self.is_joined = True
        hidden = self.hidden if out is None else self.hidden.to(out)
        ran = {row: place for place, row in enumerate(self.run)}
        if out is None and tuple(self.served) == tuple(range(self.count)):
            return hidden
        return stacked([hidden[self.served[row]] if row in self.served else out[ran[row]] for row in range(self.count)])


class StageRun:
    """One stage in one U-Net call.

    deep: the deep part that it belongs to, None outside one. ends: whether it is the last of it. in_full: whether it must run.
    """

    def __init__(self, arming: Arming, stage: Stage, runners: Sequence[Runner], deep: DeepPart | None, ends: bool, in_full: bool) -> None:
        self.arming, self.stage, self.deep, self.ends, self.in_full = arming, stage, deep, ends, in_full
        self._runners = runners
        self._served: torch.Tensor | None = None

    def forwards(self) -> Iterator[StageForward]:
        """Ours for its modules."""
        modules = self.stage.modules
        for position, module in enumerate(modules):
            yield StageForward(self, module, position == 0, position == len(modules) - 1)

    def begin(self, call: UNetCall, x: Any) -> None:
        """Its first module is given ``x``."""
        self._served = None
        if self.deep is not None or self.in_full:
            return
        for runner in self._at_work():
            with guarded([runner], self.stage.name):
                self._served = runner.serve_stage(call, self.stage, x)
            if self._served is not None:
                self.arming.answered = True
                break

    def output(self, x: torch.Tensor, last: bool) -> torch.Tensor | None:
        """What a module of it returns that does not run; None when it runs."""
        if self.deep is not None and not self.deep.run:
            out = self.deep.joined(None).to(x.dtype) if last and self.ends else Placeholder.like(x)
        elif self._served is not None:
            out = self._served if last else Placeholder.like(x)
        else:
            return None
        if last:
            self.arming.stages_served += 1
        return out

    def end(self, call: UNetCall, out: torch.Tensor) -> torch.Tensor:
        """Its last module returned ``out``, for the rows of ``call``; what the U-Net goes on with."""
        for runner in self._at_work():
            with guarded([runner], self.stage.name):
                runner.observe_stage(call, self.stage, out)
        return self.deep.joined(out) if self.deep is not None and self.ends else out

    def _at_work(self) -> list[Runner]:
        return [runner for runner in self._runners if not runner.stopped]


class StageForward(InstanceForward):
    """Instance-level ``forward`` of one module of a stage for one U-Net call."""

    __slots__ = ("_first", "_last", "_run")

    def __init__(self, run: StageRun, module: nn.Module, first: bool, last: bool) -> None:
        super().__init__(module)
        self._run, self._first, self._last = run, first, last

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run, arming = self._run, self._run.arming
        if is_tracing():
            return self.original(*args, **kwargs)
        if arming.call is not None and self._first and arming.is_over():
            arming.disarm()
        if arming.call is None:
            return self.original(*args, **kwargs)
        whole, deep, backend = arming.call, run.deep, arming.call.backend
        x = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
        partly = deep is not None and deep.run
        call = deep.call_of(whole) if partly else whole
        if self._first:
            run.begin(call, x)
        out = run.output(x, self._last)
        if out is not None:
            return backend.module_output(self._module(), kwargs, out)
        if partly:
            args, kwargs = cut_rows((args, kwargs), deep.count, deep.run)
        with _seen_as(arming, call):
            out = self.original(*args, **kwargs)
        if not self._last:
            return out
        tensor = backend.module_result(out)
        joined = run.end(call, tensor)
        return out if joined is tensor else backend.module_output(self._module(), kwargs, joined)


@contextmanager
def _seen_as(arming: Arming, call: UNetCall) -> Iterator[None]:
    """Layers inside belong to ``call``."""
    whole, arming.call = arming.call, call
    try:
        yield
    finally:
        if arming.call is call:
            arming.call = whole


def stage_runs(
    arming: Arming, stages: Sequence[Stage], runners: Sequence[Runner], plan: CallPlan, must_run: Callable[[Sequence[Stage]], str | None]
) -> list[StageRun]:
    """The stages on which something of ours is wanted in a call that runs by ``plan``. must_run: see `Means`."""
    cut, wanted = plan.stages, []
    inside: Sequence[Stage] = ()
    deep = None
    if cut is not None:
        inside = deep_stages(stages, cut.before)
        deep = DeepPart(replace(cut, rows=tuple(plan.keep.index(row) for row in cut.rows)), len(plan.keep))
    for stage in stages:
        watching = []
        for runner in runners:
            with guarded([runner], stage.name):
                if runner.serves_stages and not runner.stopped and runner.watches(stage):
                    watching.append(runner)
        if stage in inside:
            wanted.append(StageRun(arming, stage, watching, deep, stage is inside[-1], plan.in_full))
        elif watching:
            obstacle = must_run([stage])
            for runner in watching if obstacle else ():
                runner.account.stood_down(obstacle, stage.name)
            wanted.append(StageRun(arming, stage, watching, None, False, plan.in_full or bool(obstacle)))
    return wanted
