"""Methods for tests: one serves whole calls, one serves a stage, one runs the shallow stages alone."""

from __future__ import annotations

from dataclasses import dataclass

from lib_accel.core.method import CALL, STAGES, Declaration, Method
from lib_accel.core.row_history import RowHistory
from lib_accel.core.rows import Layout
from lib_accel.engine.contract import Runner, StageCut


@dataclass(frozen=True)
class ServeCalls(Method):
    """Whole predictions are served in steps whose index is no multiple of ``every``, from what rows returned last (order 0).

    images: the pictures that are served, None for all.
    """

    declaration = Declaration(acts_on=CALL)
    every: int = 2
    images: tuple[int, ...] | None = None
    window: tuple[float, float] = (0.0, 1.0)

    def runner(self):
        return ServeCallsRunner(self)


class ServeCallsRunner(Runner):
    serves_calls = True

    def __init__(self, config):
        super().__init__(config)
        self.history = RowHistory()

    def reset(self):
        self.history.clear()

    def serve_output(self, moment, rows):
        if moment.step.index % self.config.every == 0:
            return None
        images = self.config.images
        kept = {row: self.history.at("output", [moment.rows[row]]) for row in rows if images is None or moment.rows[row].image in images}
        return {row: value[0] for row, value in kept.items() if value is not None}

    def end_call(self, moment, prediction, ran):
        if ran:
            self.history.put("output", Layout(moment.rows[row] for row in ran), prediction[list(ran)])
            self.account.keeps(self.history.nbytes)


def res_blocks_run(unet) -> list[str]:
    """The names of the ResBlocks that run from now on."""
    seen = []
    for name, module in unet.named_modules():
        if type(module).__name__ in ("ResBlock", "ResnetBlock2D"):
            # Hooks of a module whose forward is ours are called all the same.
            inner = module.in_layers if hasattr(module, "in_layers") else module.conv1
            inner.register_forward_hook(lambda *_, name=name: seen.append(name))
    return seen


@dataclass(frozen=True)
class ServeStage(Method):
    """One stage is served what it returned last (order 0) in steps whose index is no multiple of ``every``."""

    declaration = Declaration(acts_on=STAGES)
    stage: int = 3
    every: int = 2
    window: tuple[float, float] = (0.0, 1.0)

    def runner(self):
        return StageRunner(self)


class StageRunner(Runner):
    serves_stages = True

    def __init__(self, config):
        super().__init__(config)
        self.history = RowHistory()
        self.learnt = []

    def reset(self):
        self.history.clear()

    def watches(self, stage):
        return stage is self.stages[self.config.stage]

    def serve_stage(self, call, stage, x):
        return self.history.at(stage.name, call.rows) if call.step.index % self.config.every else None

    def observe_stage(self, call, stage, out):
        self.history.put(stage.name, call.rows, out)

    def end_call(self, moment, prediction, ran):
        self.learnt.append(ran)


@dataclass(frozen=True)
class Shallow(Method):
    """Only the shallow stages run in steps whose index is no multiple of ``every``: what enters up stage ``before`` is held (order 0).

    before: from the end: 1 is the last up stage (DeepCache's branch 0). images: the pictures that are served, None for all.
    """

    declaration = Declaration(acts_on=STAGES)
    before: int = 1
    every: int = 2
    images: tuple[int, ...] | None = None
    window: tuple[float, float] = (0.0, 1.0)

    def runner(self):
        return ShallowRunner(self)


class ShallowRunner(StageRunner):
    def watches(self, stage):
        return stage is self.stages[-self.config.before - 1]

    def serve_stage(self, call, stage, x):
        return None

    def cut_stages(self, moment, rows):
        if moment.step.index % self.config.every == 0:
            return None
        images = self.config.images
        rows = tuple(row for row in rows if images is None or moment.rows[row].image in images)
        before = self.stages[-self.config.before]
        hidden = self.history.at(self.stages[before.index - 1].name, [moment.rows[row] for row in rows])
        return None if hidden is None else StageCut(before, rows, hidden)
