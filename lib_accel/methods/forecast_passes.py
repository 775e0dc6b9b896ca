"""Which passes may be forecast, and what is known of their steps and noise levels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.reasons import Reason
from ..core.samplers import Sampler
from ..engine.contract import Moment

if TYPE_CHECKING:
    from ..core.method_account import MethodAccount
    from .forecast import Forecast

FLOW = "flow"
NO_SAMPLER = Reason.of("no_sampler", "the sampler is not known")
ROWS_UNKNOWN = Reason.of("rows_unknown", "it is not known which picture each row belongs to")
NO_SIGMA = Reason.of("no_level", "the noise levels are not known")


def no_forecast(why: str) -> Reason:
    """That ``why`` (a clause) kept steps from being forecast: all of them, or some where others were."""
    told = Reason.of("no_forecast", "no step was forecast: {why}", why=why)
    return told.or_partly("not_all_forecast", "some steps could not be forecast: {why}")


def is_beside(moment: Moment) -> bool:
    """Whether this is a call of unknown rows in a pass whose steps come from a pipeline: somebody's in a callback, or a tile."""
    return not moment.rows.known and moment.step.source != "host"


def steps_of(moment: Moment) -> int | None:
    """How many steps the pass has; None when nobody tells."""
    return moment.step.total if moment.sigmas is None else len(moment.sigmas) - 1


def sampler_of(moment: Moment) -> Sampler | None:
    """The sampler, as passes of this kind of model are forecast; None when nobody tells."""
    sampler = moment.sampler
    return sampler.on_flow() if sampler is not None and moment.mixed == FLOW else sampler


def sigma_of(moment: Moment) -> float | None:
    """The noise level of the step, from the list that the sampler goes through."""
    return moment.noise().sigma if moment.sigmas is None else moment.sigmas[moment.step.index]


def why_not(moment: Moment, config: Forecast, account: MethodAccount) -> str | None:
    """Why nothing of the pass of ``moment`` may be forecast (a clause), or None. account: is told which setting has no effect in it."""
    sampler = moment.sampler
    if sampler is None:
        return NO_SAMPLER
    if sampler.off:
        return sampler.off
    if steps_of(moment) is None:
        return Reason.of("no_total", "the number of steps is not known")
    if moment.mixed == FLOW and (why := config.why_not_on_flow(steps_of(moment), sampler)):
        return why
    if config.runs_all(sampler):
        return Reason.of("runs_all", "every step runs, as its settings say")
    if not config.is_fixed(sampler):
        if config.every:
            sentence = "run every has no effect with {sampler}: a fixed plan is for Euler, Euler a and DDIM only"
            account.note(Reason.of("no_fixed_plan", sentence, sampler=sampler.name))
        if moment.sigmas is None:
            return NO_SIGMA
        if not moment.rows.known and moment.guidance is None:
            return ROWS_UNKNOWN
        if moment.scales is None and moment.guidance is None and len({row.role for row in moment.rows}) > 1:
            return Reason.of("no_scale", "the guidance scale is not known")
    if moment.sigmas is not None and not 0 <= moment.step.index < len(moment.sigmas) - 1:
        return Reason.of("more_steps_than_levels", "the pass has more steps than known noise levels")
    if sigma_of(moment) is None:
        return NO_SIGMA
    return None
