"""What the page knows of a job's circumstances before it begins, and what methods become in them; of a job see `jobs.circumstances`."""

from __future__ import annotations

from collections.abc import Callable

from ...core.method import TOKENS, Method
from ...settings.job import Settings
from ...settings.passes import HIRES, methods_for
from ..host import facts
from ..jobs.circumstances import TOKENS_OFF
from .asked import Asked, AskedPass

NO_FIXED_STEPS = "This sampler chooses the number of steps itself, so no step is left out and guidance is kept in every step"
SPECTRUM = "Spectrum is on and forecasts steps itself: Forecast, DeepCache and guidance skip save nothing beside it"


def becoming(asked_pass: AskedPass, job: Asked) -> Callable[[Method], Method | None]:
    """What a method is in this pass; None: it is off."""
    merges, adaptive = _merges_tokens(asked_pass, job), facts.is_adaptive(asked_pass.sampler)

    def becomes(method: Method) -> Method | None:
        if merges and method.declaration.acts_on == TOKENS:
            return None
        if job.spectrum and method.declaration.acts_on != TOKENS:
            # Only methods on tokens are sure to save something in the calls that Spectrum runs, all rows of which are needed.
            return None
        return method.without_fixed_steps() if adaptive else method

    return becomes


def notes(settings: Settings, job: Asked) -> list[str]:
    """What is to be told of that, once for all passes."""
    told: dict[str, None] = dict.fromkeys([SPECTRUM] * job.spectrum)
    for asked_pass in job.passes:
        methods = methods_for(settings, asked_pass.place)[0]
        if _merges_tokens(asked_pass, job) and any(method.declaration.acts_on == TOKENS for method in methods):
            told[str(TOKENS_OFF)] = None
        if facts.is_adaptive(asked_pass.sampler) and any(method.without_fixed_steps() != method for method in methods):
            told[NO_FIXED_STEPS] = None
    return list(told)


def _merges_tokens(asked_pass: AskedPass, job: Asked) -> bool:
    return facts.will_merge_tokens(job.tab == "img2img", asked_pass.place == HIRES)
