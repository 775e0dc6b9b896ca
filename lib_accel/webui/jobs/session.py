"""The life of a job's acceleration: opened before a pass is sampled, closed after it, swept before every job.

Nothing here trusts the host to call the closing part: an exception in a job skips it, so the denoiser of the pass is watched, and the next
job, on or off, sweeps first. One session serves the process; both tabs and the API share the model.
"""

from __future__ import annotations

import weakref
from typing import Any

from ...core.errors import in_words, strict
from ...core.reasons import Reason
from ...core.sites import UnsupportedModelError
from ...cost.preview import PassPreview
from ...engine.accelerator import Accelerator
from ...engine.instance_forward import unwrap
from ...settings.job import thresholds_of
from ..host import facts
from ..host.family import family
from ..host.forge_steps import ForgeSteps
from ..host.steps import Steps
from .job import family_for, job_of, write
from .open_pass import OpenPass, methods_in, ran_in
from .unguided import shield_from_host

INSIDE = Reason.of("job_inside", "ended early: another job ran inside this one")
BY_ERROR = Reason.of("ended_by_error", "ended by an error")


class Session:
    """See the module. Every method may be called at any time, in any order."""

    def __init__(self) -> None:
        self._open: OpenPass | None = None
        self._made: weakref.WeakSet[Accelerator] = weakref.WeakSet()
        self.last: dict[str, Any] | None = None
        # The steps of the pictures that were drawn last, by the tab that shows them.
        self.ran: dict[str, list[PassPreview]] = {}

    # -- a job -------------------------------------------------------------------------------------------------------------

    def sweep(self, by: Any = None, tab: str | None = None) -> None:
        """Take out whatever an earlier job left, however it ended. by: the job that begins; if another's pass is open, that is told.
        tab: the one that shows that job; None where none does."""
        if self._open is not None and by is not None and self._open.job.p is not by:
            self._open.job.account.note(self._open.place, INSIDE)
        self._close()
        if by is None:
            self.ran.clear()
        self.ran.pop(tab, None)
        for accelerator in list(self._made):
            accelerator.remove()
        self._made.clear()
        unet = facts.loaded_unet()
        if unet is not None:
            # ControlNet and others put back the forward that they found, after ours was taken off.
            unwrap(unet)

    def open(self, p: Any, place: str, has_sampler: bool = True) -> None:
        """A pass of ``p`` is about to be sampled. has_sampler: its sampler is made already; else ``p`` may still have an earlier one."""
        self._close()
        job = job_of(p)
        if job is None or not (job.accelerates or job.edits):
            return
        self._open = now = OpenPass(job, place)
        try:
            self._attach(now, p)
            if has_sampler:
                self._watch(now, getattr(getattr(p, "sampler", None), "model_wrap_cfg", None))
        except Exception as error:
            self._give_up(error)

    def close(self, p: Any, tab: str | None = None) -> None:
        """The pass, and with it all sampling of a batch of ``p``, is over. Writes the account into PNG info. tab: see `sweep`."""
        self._close()
        job = job_of(p)
        if tab is not None:
            self.ran[tab] = job.account.of_batch.ran if job is not None and job.accelerates else []
        if job is not None:
            job.tell_why_none_was_seen()
            self.last = job.account.as_dict()
            job.line = job.account.of_batch.short
            write(p)

    # -- a step ------------------------------------------------------------------------------------------------------------

    def step(self, params: Any) -> None:
        """The host is about to call the U-Net for one step (its callback `on_cfg_denoiser`)."""
        now = self._open
        if now is None:
            return
        try:
            p = now.job.p
            denoiser = getattr(params, "denoiser", None) or getattr(getattr(p, "sampler", None), "model_wrap_cfg", None)
            if p is None or denoiser is None or denoiser.p is not p:
                now.job.account.note(now.place, INSIDE)
                self._close()
                return
            if not now.watched:
                # Hosts before 1.10 make it after the pass was opened.
                self._watch(now, denoiser)
            now.size, now.guided, now.sampler = facts.size_of(params.x), facts.runs_both(facts.scale_of(p)), facts.sampler_name(p)
            self._follow_model(now, p, denoiser.step)
            if now.job.edits is not None:
                now.job.edits.before_step(now.accelerator, denoiser, params)
            if now.steps is not None:
                now.steps.begin(denoiser, params)
            if not family().forge:
                shield_from_host(denoiser, params)
        except Exception as error:
            self._give_up(error)

    def after_step(self, params: Any) -> None:
        """The step's U-Net calls are over, and ``params.x`` is what the host makes of them (`on_cfg_after_cfg`)."""
        now = self._open
        if now is None:
            return
        surprise = now.steps.end() if now.steps is not None else None
        if surprise:
            now.job.account.note(now.place, surprise)
        if now.job.edits is not None:
            try:
                now.job.edits.after_step(params)
            except Exception as error:
                self._give_up(error)

    def model_loaded(self) -> None:
        """The host loaded a checkpoint: a pass that is open goes on with it at its next step."""
        now = self._open
        if now is not None and now.accelerator is not None:
            now.accelerator.sweep()

    # -- inside ------------------------------------------------------------------------------------------------------------

    def _attach(self, now: OpenPass, p: Any, switched: bool = False) -> None:
        """switched: the pass began with another model."""
        now.unet, now.checkpoint, now.accelerator = facts.unet_of(p), facts.checkpoint_of(p), None
        now.job.account.noun = facts.noun_of(p)
        methods = methods_in(now, p, switched)
        if not methods:
            return
        settings = now.job.settings_for(family_for(p))
        try:
            now.accelerator = Accelerator(p.sd_model, *methods, traits=facts.traits(), auto=thresholds_of(settings))
        except UnsupportedModelError as error:
            now.job.account.note(now.place, Reason.of("unsupported", "0 of 0 layers: {why}", why=str(error)))
            return
        self._made.add(now.accelerator)
        if family().forge:
            now.steps = ForgeSteps(now.accelerator, methods, settings["drop_at_one"], p, self._give_up)
        else:
            now.steps = Steps(now.accelerator, methods, settings["drop_at_one"])

    def _follow_model(self, now: OpenPass, p: Any, step: int) -> None:
        """The refiner changes the checkpoint in the middle of a pass: another model object, or other weights in the same."""
        if now.accelerator is not None:
            obstacle = facts.obstacle(p)
            if obstacle:
                now.job.account.note(now.place, Reason.of("from_step_on", "from step {step} on {why}", step=step + 1, why=obstacle))
                self._detach(now)
                return
        if facts.unet_of(p) is not now.unet:
            self._detach(now)
            now.job.account.note(now.place, Reason.of("another_model", "another model from step {step} on", step=step + 1))
            self._attach(now, p, switched=True)
        elif any(new is not old for new, old in zip(facts.checkpoint_of(p), now.checkpoint)):
            now.checkpoint = facts.checkpoint_of(p)
            if now.accelerator is not None:
                now.accelerator.new_pass()

    def _watch(self, now: OpenPass, denoiser: Any) -> None:
        """Take everything out when a step of this pass fails: the host calls nothing of ours then."""
        if now.accelerator is None or denoiser is None:
            return

        def after(module: Any, args: Any, output: Any) -> None:
            if output is None and self._open is now:
                now.job.account.note(now.place, BY_ERROR)
                self._close()
                self.last = now.job.account.as_dict()

        now.watched.append(denoiser.register_forward_hook(after, always_call=True))

    def _detach(self, now: OpenPass) -> None:
        accelerator, now.accelerator = now.accelerator, None
        steps, now.steps = now.steps, None
        if steps is not None:
            steps.close()
            for note in sorted(steps.notes):
                now.job.account.note(now.place, note)
        if accelerator is None:
            return
        try:
            if now.job.edits is not None:
                now.job.edits.end(accelerator, now.place)
            accelerator.end_pass()
            report = accelerator.report()
        except Exception as error:
            # Whoever closes a pass may be about to open the next one.
            now.job.account.note(now.place, Reason.of("account_lost", "its report was lost to an error: {error}", error=in_words(error)))
            if strict():
                raise
            return
        finally:
            accelerator.remove()
        if report.as_dict()["unet_calls"]:
            now.job.account.add(now.place, report, now.size, goes_on=now.told, ran=ran_in(now, report))
            now.told = True

    def _close(self) -> None:
        now, self._open = self._open, None
        if now is not None:
            for handle in now.watched:
                handle.remove()
            self._detach(now)

    def _give_up(self, error: Exception) -> None:
        """Our own code failed: the job goes on without it."""
        now = self._open
        try:
            self._close()
        finally:
            if now is not None:
                now.job.account.note(
                    now.place, Reason.of("after_error", "everything was switched off after an error: {error}", error=in_words(error))
                )
        if strict():
            raise error


SESSION = Session()
