"""The course of passes, steps and calls, as every method is told of it: each part once, whatever the host's calls are like."""

from __future__ import annotations

from collections.abc import Hashable

from ..core.schedule import Step
from .contract import Moment, Runner
from .guard import guarded


class Course:
    """Tells ``runners`` when passes and steps begin and end. See `Runner`."""

    def __init__(self, runners: list[Runner]) -> None:
        self._runners = runners
        self._pass: int | None = None
        self._step: tuple[int, int] | None = None
        self._state: Hashable = None
        # Those that were told of the step's begin: the others do not hear of its end.
        self._in_step: list[Runner] = []
        # Hosts may go on after what was known to be the last call.
        self._pass_ended = self._step_ended = True

    def at(self, moment: Moment) -> list[Runner]:
        """The methods at work at ``moment``, after they were told what begins there."""
        number, _ = moment.pass_and_step
        if number != self._pass:
            self.end_pass()
            self._pass, self._pass_ended, self._state = number, False, moment.state
            for runner in self._runners:
                with guarded([runner]):
                    runner.reset()
                    runner.begin_pass(moment)
        if moment.state != self._state:
            self._state = moment.state
            self.let_go()
        if moment.pass_and_step != self._step:
            self.end_step()
            self._step, self._step_ended, self._in_step = moment.pass_and_step, False, []
            for runner in self._at_work(moment.step):
                # First: whoever fails at its begin is told of its end all the same.
                self._in_step.append(runner)
                with guarded([runner]):
                    runner.begin_step(moment)
        return [runner for runner in self._in_step if not runner.stopped]

    def end_step(self) -> None:
        """The open step, if any, is over."""
        if self._step_ended:
            return
        self._step_ended = True
        for runner in self._in_step:
            with guarded([runner]):
                runner.end_step()

    def end_pass(self) -> None:
        """The open pass, if any, is over."""
        self.end_step()
        if self._pass_ended:
            return
        self._pass_ended = True
        for runner in self._runners:
            with guarded([runner]):
                runner.end_pass()

    def let_go(self, everything: bool = False, only_scale: bool = False) -> bool:
        """What was kept is of other prompts, adapters or ControlNet units; everything: of another model; only_scale: of another guidance
        scale. Before methods are told of a step, who decide on what is left. Whether any method had to let go."""
        reset = [
            runner for runner in self._runners if everything or not (runner.outlives_prompts or (only_scale and runner.outlives_scale))
        ]
        for runner in reset:
            with guarded([runner]):
                runner.reset()
        return bool(reset)

    def forget(self) -> None:
        """Whatever is open is over, and what was kept is freed."""
        self.end_pass()
        for runner in self._runners:
            with guarded([runner]):
                runner.reset()

    def _at_work(self, step: Step) -> list[Runner]:
        at_work = [runner for runner in self._runners if step.within(runner.window) and not runner.stopped]
        for runner in self._runners:
            if runner in at_work:
                runner.account.was_at_work = True
            else:
                runner.account.missed_window = runner.window
        return at_work
