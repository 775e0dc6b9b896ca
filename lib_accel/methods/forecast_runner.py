"""Forecasting at work on one U-Net: what is kept of each row, what is served, and one decision per picture and step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..core.error_control import ErrorControl
from ..core.noise import Noise
from ..core.reasons import Reason
from ..core.rows import Layout, Row
from ..core.schedule import waiting_for_prompts
from ..engine.contract import Moment, Runner
from .forecast_passes import NO_SIGMA, ROWS_UNKNOWN, is_beside, no_forecast, sampler_of, sigma_of, steps_of, why_not
from .guided_error import GuidedError, picture_of
from .kept_predictions import KeptPredictions
from .shallow_calls import DecidesShallow, ShallowCalls

# Why rows of a call are unknown that the loop made for a step of its own.
OF_THE_LOOP = ("too_many_calls", "order_unknown", "no_pairs")


class ForecastRunner(DecidesShallow, Runner):
    """Forecasting at work. One pass: its sampler, its noise levels, what rows predicted, and how far off forecasts of pictures were."""

    # Windows say where steps may be forecast; what went before is learnt from all the same.
    window = (0.0, 1.0)
    serves_calls = True
    outlives_scale = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.reset()

    def reset(self) -> None:
        self._kept = KeptPredictions(self.config)
        self._pictures: dict[int, ErrorControl] = {}
        # Pictures of which one call of a step was served and another could not be: in the rest of the pass all of their calls run.
        self._split: set[int] = set()
        # The step that the pass, or what is known of it, began with; and whether any step might have been forecast.
        self._begin: int | None = None
        self._could = False
        self._sigma: float | None = None
        # The prompts of the step before, and of this one so far.
        self._prompts_before: frozenset[tuple] | None = None
        self._prompts: set[tuple] = set()
        # Of the step at hand: whether it need not always run, whether something may be forecast or learnt, who is served, and what was.
        self._is_between = self._may_serve = self._learns = False
        self._decided: dict[int, bool] = {}
        # Of the call at hand: which rows are served, and whose picture each is.
        self._handed: dict[int, int] = {}
        self._served: set[int] = set()
        self._ran, self._shallow = GuidedError(0), ShallowCalls(0)
        # Why it is not known whose rows a call held.
        self._beside: str | None = None
        # What the step ran in whole because its rows could not be cut.
        self._uncut: str | None = None
        # Whether the loop ran the model on rows of nobody knows whom in this step.
        self._strange = False

    # -- steps -------------------------------------------------------------------------------------------------------------

    def begin_step(self, moment: Moment) -> None:
        self._decided, self._served, self._prompts, self._uncut = {}, set(), set(), None
        self._ran, self._shallow = GuidedError(moment.step.index), ShallowCalls(moment.step.index)
        self._is_between = self._may_serve = self._learns = False
        strange, self._strange = self._strange, False
        reason = self._why_not(moment)
        if reason is not None:
            self.account.note(no_forecast(reason))
            self._forget()
            return
        index, sigma = moment.step.index, sigma_of(moment)
        if index < moment.settled:
            self.account.note(waiting_for_prompts("forecasting", moment.settled, moment.step.total))
            self._forget()
            return
        if self._sigma is not None and sigma >= self._sigma and not moment.evaluation:
            self._forget()
        if self._begin is None:
            self._begin = index
        self._sigma, self._learns = sigma, True
        between = self._between(moment)
        self._is_between = index in between
        self._may_serve = self._is_between and moment.step.within(self.config.window)
        if strange and self._is_between:
            # What such a call returns is combined with the others', as in the step before: an error in theirs alone would count many times.
            self._is_between = self._may_serve = False
            self.account.note(no_forecast(ROWS_UNKNOWN))
        self._could |= self._may_serve
        if not between:
            sentence = "the last {steps} steps are too few" if self._begin else "a pass of {steps} steps is too short"
            sentence += ": the first {first} and last of them always run"
            steps, first = steps_of(moment) - self._begin, between.start - self._begin
            self.account.is_idle(Reason.of("too_short", sentence, steps=steps, first=first))

    def end_step(self) -> None:
        for image in self._served - self._shallow.pictures:
            control = self._pictures.get(image)
            if control is not None:
                control.served(self._ran.step)
        for image in self._ran.pictures - self._served:
            control = self._pictures.get(image)
            if control is not None:
                # Where a part of it was shallow the rest tells nothing of the guided prediction.
                whole = image not in self._shallow.pictures
                control.ran(self._ran.step, *((self._ran.of(image), self._shallow.error_of(image, self._ran)) if whole else (None,)))
        for image in self._shallow.pictures - self._ran.pictures:
            control = self._pictures.get(image)
            if control is not None:
                control.ran_shallow(self._ran.step)
        if self._uncut and self._ran.pictures:
            self.account.note(Reason.of("uncut", "pictures that could have been forecast were run with the others: {why}", why=self._uncut))
        prompts = frozenset(self._prompts)
        if prompts and self._prompts_before is not None and prompts != self._prompts_before:
            self._forget()
        self._prompts_before = prompts or self._prompts_before

    def end_pass(self) -> None:
        if self._beside and not len(self._kept):
            self.account.note(no_forecast(self._beside))
        elif not self.account.served_steps and not self.account.idle and not self.stopped:
            ended = Reason.of("ended_early", "the pass or the window ended before a step could be forecast")
            self.account.is_idle(Reason.of("too_far_off", "forecasts were too far off in every step") if self._could else ended)
        self._could = False
        self._forget()

    # -- calls -------------------------------------------------------------------------------------------------------------

    def begin_call(self, moment: Moment) -> None:
        # Of a call that must run in full nothing is asked.
        self._handed = {}
        self._prompts |= {(row.key, row.weight) for row in moment.rows if row.role == "cond"}
        key = (moment.sample.shape[1:], moment.predicts, moment.guidance)
        if self._kept.under(key):
            self._forget()
            self._begin = moment.step.index
            self._is_between = self._may_serve = False

    def refused(self) -> None:
        pictures = set(self._handed.values())
        self._split |= self._served & pictures
        # The shallow stages alone may do in its place.
        self._decided.update(dict.fromkeys(pictures, False))
        self._handed = {}

    def serve_output(self, moment: Moment, rows: tuple[int, ...]) -> Mapping[int, torch.Tensor] | None:
        if is_beside(moment):
            self._beside = moment.rows.why_unknown
            self._strange |= moment.rows.why_unknown is None or getattr(self._beside, "code", "") in OF_THE_LOOP
            return None
        if not self._may_serve or moment.evaluation or moment.whole_because:
            if moment.whole_because:
                self.account.note(no_forecast(moment.whole_because))
            return None
        # A picture is served whole or not at all: half of it would be guided by two steps of different age.
        runs = {picture_of(moment.rows[index]) for index in rows if not self._serves(moment, moment.rows[index])}
        wanted = tuple(index for index in rows if picture_of(moment.rows[index]) not in runs)
        if wanted and wanted != rows:
            self._uncut = moment.obstacle()
            if self._uncut:
                return None
        self._handed = {index: picture_of(moment.rows[index]) for index in wanted}
        return {index: self._kept.forecast(moment, index) for index in wanted}

    def end_call(self, moment: Moment, prediction: torch.Tensor, ran: tuple[int, ...]) -> None:
        if not self._learns or moment.evaluation or is_beside(moment):
            return
        for image in (image for index, image in self._handed.items() if index not in ran):
            self._served.add(image)
            # Where another call of the step ran for it, it was not.
            if image not in self._ran.pictures:
                self.account.served(moment.pass_and_step, max(image, 0))
        if not ran:
            return
        rows = Layout(moment.rows[index] for index in ran)
        for row in rows:
            self.account.served(moment.pass_and_step, max(picture_of(row), 0), ran=True)
        values = self._values(moment, prediction, ran)
        if values is None:
            return
        self._ran.add(moment, rows, self._errors(moment, rows, values))
        self._kept.put(moment, rows, values)
        for row in () if self.config.is_fixed(moment.sampler) else rows:  # a fixed plan asks nobody, and needs no noise levels
            self._pictures.setdefault(picture_of(row), self._new_control(moment))
        self.account.keeps(self._kept.nbytes)

    def _values(self, moment: Moment, prediction: torch.Tensor, rows: tuple[int, ...]) -> torch.Tensor | None:
        values = self._kept.values(moment, prediction, rows)
        if values is None:
            self._learns = self._is_between = self._may_serve = False
            self.account.note(no_forecast(NO_SIGMA))
        return values

    def decides_steps(self, moment: Moment) -> bool:
        return not self.stopped and self._why_not(moment) is None

    def goes_with_kept_guidance(self, moment: Moment) -> bool | None:
        forecasts = self.decides_steps(moment) and bool(self._between(moment))
        return self.config.keeps_guidance(sampler_of(moment)) if forecasts else None

    # -- decisions ---------------------------------------------------------------------------------------------------------

    def _why_not(self, moment: Moment) -> str | None:
        """Why nothing of this pass may be forecast (a clause), or None."""
        return why_not(moment, self.config, self.account)

    def _serves(self, moment: Moment, row: Row) -> bool:
        """Whether ``row`` is served: its picture needs no call, and it ran whenever its picture did last."""
        image = picture_of(row)
        if image not in self._decided:
            # Rows of the same picture in other calls of the step: what is served here is combined with what they predict.
            others = (other for other in moment.in_other_calls if picture_of(other) == image)
            needs_none = image not in self._split and self._needs_no_call(moment, image)
            self._decided[image] = needs_none and all(self._kept.is_ready(moment, other, image) for other in others)
        return self._decided[image] and image not in self._ran.pictures and self._kept.is_ready(moment, row, image)

    def _needs_no_call(self, moment: Moment, image: int) -> bool:
        sampler, index = moment.sampler, moment.step.index
        if self.config.is_fixed(sampler):
            return (index - self._between(moment).start) % self.config.every != self.config.every - 1
        control = self._pictures.get(image)
        return control is not None and control.may_serve(index)

    def _errors(self, moment: Moment, rows: Layout, values: torch.Tensor) -> torch.Tensor | None:
        """How far off forecasts of ``rows`` were [rows, channels, h, w]; None where that decides nothing."""
        decides = not self.config.is_fixed(moment.sampler) and moment.step.index + 1 in self._between(moment)
        return self._kept.errors(moment, rows, values) if decides else None

    def _new_control(self, moment: Moment) -> ErrorControl:
        sampler, sigmas = sampler_of(moment), moment.sigmas or ()
        noises = [Noise(moment.predicts, sigma, moment.mixed) for sigma in sigmas]
        return ErrorControl(sampler, sigmas, self.config.control(sampler), self._kept.order(moment), noises, self.shallow_order)

    # -- the pass ----------------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._kept.clear()
        self._pictures.clear()
        self._split.clear()
        self._begin = self._sigma = self._prompts_before = None

    def _between(self, moment: Moment) -> range:
        """The steps that need not always run. What began late in the pass warms up anew."""
        # Others may ask in a step before it begins for this one.
        begin = max(moment.step.index, moment.settled) if self._begin is None else self._begin
        left = None if moment.sigmas is None else moment.sigmas[begin:]
        between = self.config.steps_between(sampler_of(moment), steps_of(moment) - begin, left)
        return range(between.start + begin, between.stop + begin)
