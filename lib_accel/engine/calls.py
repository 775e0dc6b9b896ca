"""The calls of a U-Net while an accelerator is at work on it: what its two hooks do, and its forward where whole calls are served."""

from __future__ import annotations

import functools
import threading
from dataclasses import replace
from typing import Any

from torch import nn

from ..backends.loops import calling_loop
from ..core.derivatives import why_derivatives
from ..core.errors import in_words, strict
from ..core.placeholder import Placeholder
from ..core.reasons import Reason
from ..core.sites import is_tracing
from ..core.threads import is_inside
from .armer import Armer
from .attachment import Attachment
from .auto import AutoChoice
from .call_plan import Means, OpenCall, plan_call
from .contract import HostTraits, Runner
from .end_of_pass import EndOfPass
from .guard import guarded
from .hooks import Arming
from .host_side import HostSide
from .instance_forward import below
from .second_run import SecondRuns
from .shared import Shared
from .steering import Steering
from .subject import COMPILED, Subject


class Calls:
    """attachment: what is on the U-Net for it."""

    def __init__(
        self, subject: Subject, runners: list[Runner], host: HostSide, traits: HostTraits, auto: AutoChoice, shared: Shared
    ) -> None:
        self._subject, self._armer = subject, Armer(subject, traits, auto)
        self._where, self._course = host.where, host.course
        self._arming: Arming | None = None
        self._open: OpenCall | None = None
        self._thread: int | None = None
        # The thread of the last call; its pipeline may be at work still.
        self._owner: int | None = None
        self._entrance = threading.Lock()
        self._end = EndOfPass(host.where, self._is_at_work, self.end_pass)
        self.tally, self.watch = shared.tally, shared.watch
        self._steering = Steering(subject, host, shared)
        self._second = SecondRuns(subject, self._armer, shared)
        serves = any(runner.serves_calls for runner in runners)
        self.attachment = Attachment(subject.unet, self._enter, self._leave, self._serve if serves else None, self._before_copy)

    @property
    def needs_post_hook(self) -> bool:
        """Whether a call under way runs on fewer rows, which the post-hook fills up."""
        return self._open is not None and self._open.plan.leaves_rows_out

    def sweep(self) -> None:
        """Take out whatever an interrupted U-Net call left on the layers."""
        if self._arming is not None:
            self._arming.disarm()
            self.tally.stages_served += self._arming.stages_served
            self._arming = None
        unet = self._subject.unet
        if self._open is not None and not (unet is not None and is_inside(self._thread, unet)):
            self._open = None

    def _before_copy(self) -> None:
        """A copy is about to be made. What a call under way has on the layers goes on; what an interrupt left is taken out."""
        unet = self._subject.unet
        if self._arming is not None and unet is not None and is_inside(self._thread, unet):
            self._arming.hide_from_copies()
        else:
            self.sweep()

    def forget(self) -> None:
        """What was kept is freed; a pass that is open is over."""
        self._course.forget()
        self._steering.clear()

    # -- a call begins -----------------------------------------------------------------------------------------------------

    def _enter(self, unet: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if is_tracing() or unet is not self._subject.unet or self._subject.why_out_of_reach() is COMPILED:
            # The second: a replica that shares our hooks (DataParallel) runs plain.
            return None
        me = threading.get_ident()
        with self._entrance:
            if self._second.running:
                return None if is_inside(me, unet, times=2) else self._run_plain()
            if self._thread not in (None, me) and is_inside(self._thread, unet):
                return self._run_plain()
            if self._owner not in (None, me) and calling_loop(unet, self._owner) is not None:
                # Another thread's pipeline is between two of its steps.
                return self._run_plain()
            if self.needs_post_hook and self._thread == me and is_inside(me, unet, times=2):
                # A call inside a call that runs on fewer rows: it has those, and no others to drop.
                self._open.nested += 1
                return None
            if self._arming is not None and self._thread == me and is_inside(me, unet, times=2):
                self._tell("call_in_call", "the U-Net was called inside its own call: the rest of the outer call ran without Accel")
            self._open = None
            self.sweep()
            self._thread = self._owner = me
        try:
            return self._arm(args, kwargs)
        except Exception as error:
            self._open = None
            self.sweep()
            if strict():
                raise
            self._tell("error", "everything was switched off after an error: {error}", error=in_words(error))
            return None

    def _run_plain(self) -> None:
        self._tell("another_thread", "calls from another thread ran without Accel: an accelerated U-Net serves one job at a time")

    def _tell(self, code: str, clause: str, **values: Any) -> None:
        self.tally.tell(code, clause, **values)

    def _arm(self, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        subject = self._subject
        backend, unet = subject.backend, subject.unet
        sample = backend.sample_of(args, kwargs)
        timestep, marks = backend.timestep_of(args, kwargs), backend.marks_of(args, kwargs)
        moment = self._where.at_call(unet, sample, timestep, marks, backend.text_of(unet, args, kwargs))
        by_host = moment.step.source == "host"
        moment = replace(
            moment,
            # An interrupted call stays open: it must not keep the model.
            # Several methods ask, and the whole U-Net is looked through.
            obstacle=functools.cache(lambda: backend.rows_obstacle(subject.unet, args, kwargs, len(sample), by_host)),
            joins=lambda: backend.joins(subject.unet, args, kwargs),
        )
        self._steering.compare(moment, args, kwargs)
        self._end.watch(sample)
        active = self._course.at(moment)
        tally = self.tally
        tally.steps.add(moment.pass_and_step)
        tally.calls += 1
        tally.rows += len(sample)
        self.watch.start(sample.device)
        derivatives = why_derivatives()
        if derivatives:
            tally.rows_run += len(sample)
            self._tell("derivatives", "everything is off: {why}", why=derivatives)
            return None
        for runner in active:
            with guarded([runner]):
                runner.begin_call(moment)
        active = [runner for runner in active if not runner.stopped]
        self._open = OpenCall(moment, active, plan_call(active, moment, self._means(args, kwargs)))
        given = self._open.cut(backend, unet, args, kwargs)
        plan = self._open.plan
        tally.rows_run += len(plan.keep)
        tally.rows_served += len(plan.output)
        if plan.runs_nothing:
            return None
        self._arming = self._armer.begin(self._open)
        self._armer.put(self._arming, self._open, plan, active)
        return given

    def _means(self, args: tuple, kwargs: dict) -> Means:
        subject, backend = self._subject, self._subject.backend
        forward = below(subject.unet.__dict__.get("forward"))
        return Means(
            self._where.tiles,
            self.attachment.serves_calls(),
            subject.stages,
            lambda stages=None: subject.must_run(stages) or (stages is None and backend.call_must_run(subject.unet, args, kwargs)) or None,
            lambda: subject.backend.together(subject.unet, forward, args, kwargs),
        )

    # -- a call ends -------------------------------------------------------------------------------------------------------

    def _leave(self, unet: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        if is_tracing() or self._thread != threading.get_ident() or unet is not self._subject.unet:
            return None
        opened, arming = self._open, self._arming
        if opened is not None and opened.nested:
            opened.nested -= 1
            return None
        self.watch.stop()
        not_served = None
        if opened is not None and output is not None and arming is not None:
            opened.answered = arming.answered
            not_served = arming.tell_unreached()
        self._open = None
        self.sweep()
        self._thread = None
        if opened is None or output is None:  # After an error there is no output.
            return None
        if not self.attachment.is_on:
            self.attachment.drop_hooks()
        if isinstance(self._subject.backend.prediction_of(output), Placeholder):
            # Code that nobody knows left out what was to be served.
            not_served = Reason.of("stages_came_out", "the U-Net returned the placeholder of a stage that did not run")
        if not_served:
            for runner in opened.runners:
                if runner.serves_stages:
                    runner.stop(not_served)
            output = unet.forward(*args, **kwargs)
        if opened.plan.runs_nothing:
            self._see_whether_served(opened)
        output = opened.finish(output, self._subject.backend)
        if not not_served:
            self._second.behind(opened, args, kwargs)
        if self._where.ends_pass:
            self.end_pass()
        return output

    def _see_whether_served(self, opened: OpenCall) -> None:
        """Whoever put a forward over ours runs in calls that are served; whoever took ours away runs the U-Net."""
        if opened.served:
            if not self.attachment.is_outermost:
                self._tell("forward_over_ours", "in served calls another forward ran all the same: it was put over ours")
            return
        tally = self.tally
        tally.rows_run, tally.rows_served = tally.rows_run + opened.plan.count, tally.rows_served - len(opened.plan.output)
        opened.ran_in_whole()
        self._tell("forward_in_place_of_ours", "calls that were to be served ran: another forward took the place of Accel's")

    def _serve(self, args: tuple, kwargs: dict) -> Any:
        """The output of the call under way when all of its rows are served."""
        opened, unet, backend = self._open, self._subject.unet, self._subject.backend
        if opened is None or not opened.plan.runs_nothing or self._thread != threading.get_ident() or not is_inside(self._thread, unet):
            return None
        sample = backend.sample_of(args, kwargs)
        if sample.shape[0] != opened.plan.count:
            self._tell("other_rows", "a served call was run: another forward gave the U-Net other rows")
            return None
        self.tally.calls_served += 1
        opened.served = True
        return backend.output_of(unet, args, kwargs, opened.prediction(sample))

    # -- a pass ends -------------------------------------------------------------------------------------------------------

    def _is_at_work(self) -> bool:
        unet = self._subject.unet
        return unet is None or self._open is not None or calling_loop(unet, self._owner) is not None

    def end_pass(self) -> None:
        """The open pass, if any, is over."""
        self._course.end_pass()
        self._steering.clear()
