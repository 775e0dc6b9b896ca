"""DeepCache at work on one U-Net: what enters the shallow up stages is kept of each row, and served for each picture."""

from __future__ import annotations

from typing import Any

import torch

from ..core.fields import changed
from ..core.reasons import Reason
from ..core.rows import Layout
from ..core.schedule import first_step, waiting_for_prompts
from ..core.stages import Stage
from ..engine.contract import Moment, Runner, StageCut, UNetCall
from .guided_error import TOGETHER, picture_of
from .kept_stages import KeptStages
from .noise_course import NoiseCourse
from .shallow_calls import DecidesShallow
from .standing_aside import why_aside

# Why nothing was served to the end.
NO_STEP = Reason.of("no_step_between", "no step was left between those that always run")
TOO_FAR_OFF = Reason.of("kept_too_far_off", "what was kept was too far off in every step")
FORECAST_DECIDES = Reason.of("forecast_decides", "the steps that were not forecast were better run in whole")
OF_THE_FORECAST = {"tolerance", "warm_up", "warm_sigma", "last"}
NO_EFFECT = Reason.of("no_effect", "its tolerance, warm-up and last steps have no effect beside Forecast: those of Forecast count")
NEVER_WHOLE = Reason.of("never_all_rows", "all rows of a picture were never kept in the same step: guidance came and went")


def _in_whole(why: str) -> Reason:
    told = Reason.of("in_whole", "every step ran the whole U-Net: {why}", why=why)
    return told.or_partly("partly_in_whole", "some steps ran the whole U-Net: {why}")


class DeepCacheRunner(Runner):
    """DeepCache at work."""

    # Windows say where stages may be served; what went before is kept all the same.
    window = (0.0, 1.0)
    serves_stages = True
    outlives_scale = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._served_any = False
        self._why_idle = NO_STEP
        self.reset()

    def reset(self) -> None:
        self._kept = KeptStages()
        self._forget()
        self._before: Stage | None = None
        self._course = NoiseCourse()
        # Of the step at hand: whether deep stages may be served, and what leaves them is kept.
        self._may_serve = self._keeps = False
        self._index = 0
        self._sigma: float | None = None
        self._handed: tuple[int, ...] = ()
        # The pictures that are to be shallow in the call at hand, and those that were in the step.
        self._chosen: set[int] = set()
        self._cut_in_step: set[int] = set()
        # Whoever decides for each picture which steps are shallow; what would be served in the call at hand, where that is measured.
        self._decides: DecidesShallow | None = None
        self._would: StageCut | None = None
        # Why that could not be measured in a call of the pass (a clause).
        self._unmeasured: str | None = None
        self.stands_aside = False

    def _forget(self) -> None:
        self._kept.clear()
        # Pictures of which one call of a step was shallow and another could not be: in the rest of the pass all of their calls run.
        self._split: set[int] = set()

    # -- steps -------------------------------------------------------------------------------------------------------------

    def _begin(self, moment: Moment) -> None:
        """A pass begins, or what was kept of it was let go."""
        self._before = self.config.before(self.stages)
        self._kept = KeptStages(self.config.order_of(moment.sampler), self.config.offload)

    def begin_step(self, moment: Moment) -> None:
        self._may_serve = self._keeps = False
        self._cut_in_step = set()
        aside = self._why_aside(moment)
        self.stands_aside = aside is not None
        if aside is not None:
            self._tell_idle(aside)
            self._forget()
            return
        if not self.stages:
            self.stop(Reason.of("stages_unknown", "the stages of this U-Net are not known"))
            return
        if self._before is None:
            self._begin(moment)
        self._index, self._sigma = moment.step.index, self._level(moment)
        if self._course.turns(moment):
            # Restart goes back to more noise: deep features of a clean picture say nothing there.
            self._forget()
        if not self._served_any:
            self.account.is_idle(self._why_idle)
        if self._index < moment.settled:
            self.account.note(waiting_for_prompts("DeepCache", moment.settled, moment.step.total))
            self._forget()
            return
        self._may_serve = self._is_between(moment) and moment.step.within(self.config.window)
        self._keeps = self._may_serve or self._comes_soon(moment)

    def end_pass(self) -> None:
        self._forget()

    # -- calls -------------------------------------------------------------------------------------------------------------

    def begin_call(self, moment: Moment) -> None:
        self._handed, self._would, self._decides = (), None, None
        if self.stands_aside:
            return
        self._decides = next((r for r in self.at_work if isinstance(r, DecidesShallow) and r.decides(moment)), None)
        if self._decides is not None and self._index >= moment.settled:
            if changed(self.config).keys() & OF_THE_FORECAST:
                self.account.note(NO_EFFECT)
            self._decides.shallow_order = self._kept.order
            self._may_serve = moment.step.within(self.config.window) and self.config.every > 1
            self._keeps = self._decides.keeps_stages(moment) and self.config.every > 1
        if self._kept.under((tuple(moment.sample.shape[1:]), moment.sample.dtype)):
            self._forget()

    def cut_stages(self, moment: Moment, rows: tuple[int, ...]) -> StageCut | None:
        if not self._may_serve:
            return None
        if not moment.rows.known and moment.step.source == "schedule":
            self.account.note(
                _in_whole(moment.rows.why_unknown or Reason.of("rows_unknown", "it is not known which picture each row belongs to"))
            )
            return None
        chosen = tuple(index for index in rows if self._serves(moment, rows, moment.rows[index].image))
        if self._decides is not None and chosen != rows and self._decides.wants_shallow_measured(moment):
            # What would be served to those that run in whole, before it is replaced.
            why = moment.whole_because or moment.joins()
            self._unmeasured = why or self._unmeasured
            self._would = None if why else self._cut(moment, rows)
        if not chosen:
            return None
        self._chosen = {moment.rows[index].image for index in chosen}
        joined = moment.whole_because or moment.joins()
        if joined:
            self._split |= self._chosen & self._cut_in_step
            self.account.note(_in_whole(joined))
            return None
        cut = self._cut(moment, chosen)
        self._handed = chosen if cut is not None else ()
        return cut

    def _cut(self, moment: Moment, rows: tuple[int, ...]) -> StageCut | None:
        hidden = self._kept.at(Layout(moment.rows[index] for index in rows), self._sigma)
        return None if hidden is None else StageCut(self._before, rows, hidden)

    def refused(self) -> None:
        self._split |= self._chosen & self._cut_in_step
        self._handed = ()

    def second_cut(self, moment: Moment, rows: tuple[int, ...], ran: tuple[int, ...]) -> StageCut | None:
        would, self._would = self._would, None
        return would

    def measured(self, moment: Moment, prediction: torch.Tensor, rows: tuple[int, ...]) -> None:
        if self._decides is not None:
            self._decides.measured_shallow(moment, prediction, rows)

    def watches(self, stage: Stage) -> bool:
        return self._keeps and stage is self.stages[self._before.index - 1]

    def observe_stage(self, call: UNetCall, stage: Stage, out: torch.Tensor) -> None:
        if self.config.tolerance and self._decides is None:
            self._kept.measure(self._index, call.rows, out, self._sigma)
        self._kept.put(self._index, call.rows, out, self._sigma)
        self.account.keeps(self._kept.nbytes)

    def end_call(self, moment: Moment, prediction: torch.Tensor, ran: tuple[int, ...]) -> None:
        served = set(self._handed) - set(ran)
        self.account.shallow(moment.pass_and_step, *([max(picture_of(moment.rows[index]), 0) for index in rows] for rows in (served, ran)))
        if served:
            self._cut_in_step |= {moment.rows[index].image for index in served}
            self._served_any = True
            self.account.is_idle(None)
            if self._decides is not None and not moment.evaluation:
                self._decides.ran_shallow(moment, prediction, tuple(sorted(served)))

    # -- decisions -----------------------------------------------------------------------------------------------------------

    def _why_aside(self, moment: Moment) -> Reason | None:
        """Why the pass is better off without it (a clause), or None."""
        if not self.config.only_where_better:
            return None
        # Also where it forecasts none of them: each step of a short pass matters.
        return why_aside((False if runner.decides_steps(moment) else None for runner in self.at_work), moment)

    def _is_between(self, moment: Moment) -> bool:
        """Whether this is none of the steps that always run in whole."""
        settings, step = self.config, moment.step
        if settings.every == 1 or (step.total is not None and step.index >= step.total - settings.last):
            return False
        warming = step.fraction < settings.warm_up if step.total is None else step.index < first_step(settings.warm_up, step.total)
        if settings.warm_sigma and self._sigma is None:
            self.account.note(_in_whole(Reason.of("no_level", "the noise level is not known")))
            return False
        return not warming and not (settings.warm_sigma and self._sigma > settings.warm_sigma)

    def _comes_soon(self, moment: Moment) -> bool:
        """Whether what this step computes may be served, continued or measured later."""
        total = moment.step.total
        if self.config.every == 1 or total is None:
            return self.config.every > 1
        return self._index + self._kept.depth + 1 >= first_step(self.config.warm_up, total)

    def _serves(self, moment: Moment, rows: tuple[int, ...], image: int) -> bool:
        """Whether the picture ``image`` needs no whole call: all of its rows were kept last in one step, and not too long ago."""
        # Those in other calls of the step, too: the picture is guided by all of them.
        whole = (*(moment.rows[index] for index in rows), *moment.in_other_calls)
        kept = {self._kept.step_of(row) for row in whole if row.image == image}
        if image in self._split or self._index in kept:
            # Or another call of the step ran in whole.
            return False
        since = kept.pop()
        if kept:
            self._tell_idle(NEVER_WHOLE)
        if kept or since is None or since > self._index:
            return False
        if self._decides is not None:
            return self._allowed(moment, image)
        if self._index - since >= self.config.every:
            return False
        if not self.config.tolerance:
            return True
        drift = self._kept.drift(image)
        near = drift is not None and drift * (self._index - since) <= self.config.tolerance
        if not near:
            self._tell_idle(TOO_FAR_OFF)
        return near

    def _allowed(self, moment: Moment, image: int) -> bool:
        """Whether whoever decides says that the shallow stages of picture ``image`` are enough."""
        picture = image if moment.rows.known else TOGETHER
        allowed = self._decides.allows_shallow(moment, picture, self.config.every - 1)
        if not allowed and self._decides.may_be_shallow(moment):
            self._tell_idle(_in_whole(self._unmeasured) if self._unmeasured else FORECAST_DECIDES)
        return allowed

    def _tell_idle(self, why: Reason) -> None:
        self._why_idle = why
        if not self._served_any:
            self.account.is_idle(why)

    def _level(self, moment: Moment) -> float | None:
        """The noise level, where it is asked for: a GPU may have to be waited for."""
        if not self._kept.order and not self.config.warm_sigma:
            return None
        known = moment.sigmas is not None and moment.step.index < len(moment.sigmas)
        return moment.sigmas[moment.step.index] if known else moment.noise().sigma
