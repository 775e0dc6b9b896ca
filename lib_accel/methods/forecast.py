"""Forecast: whole steps that need not run. What the U-Net would have predicted is continued from the calls before.

Which calls run is decided for every picture while it is drawn (`core/error_control.py`), or by a fixed plan. Relatives: Spectrum
(arXiv 2603.01623), TaylorSeer (arXiv 2503.06923), SADA (Jiang et al., arXiv 2507.17135), AB-Cache.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.fields import check, setting
from ..core.forecasting import LEVELS, Control
from ..core.method import CALL, Declaration, Kind, Method, Schedule
from ..core.reasons import Reason
from ..core.samplers import Sampler, sampler_named
from ..core.schedule import Window, acts_in
from ..core.work import StepWork
from . import shared_settings as shared
from .forecast_runner import ForecastRunner

# Of a fixed plan: until sigma is about 3.
FIXED_WARM_UP = 0.32
SERVED = "forecast"
# Passes of flow matching of no more steps are those of models made for few steps.
FEW_STEPS = 10


@dataclass(frozen=True)
class Forecast(Method):
    """Settings of forecasting whole steps. SettingError when one is out of range.

    level: how far a picture may drift, ``careful`` | ``middle`` | ``fast`` | ``fastest`` | ``draft``; what that means depends on the
    sampler.
    every: after the warm-up only every such step runs, whatever the picture; for Euler, DDIM and Euler a. 0 (default): decided for each
    picture by how far off forecasts of it were so far, which is nearer to the full run.

    Rarely changed:
    tolerance: the error that steps forecast in a row may add up to, in place of the level's; 0: the level's. Higher: faster.
    largest_gap: how many steps in a row may be forecast, in place of the level's; 0: the level's. Higher: faster.
    warm_up: part of the steps that always run first, at least 5 steps; 0: by the sampler. Lower: faster.
    warm_sigma: all steps run until the noise level is down to this; 0: does not count.
    last: steps that always run at the end; -1: by the sampler.
    order: 1 continues along the line through the last two predictions, 0 holds the last, 0.5 is half way; ``by sampler`` is best.
    window: (start, end) in fractions of the pass in which steps may be forecast.

    Models of flow matching that are run in few steps (at most 10) stay as they are unless ``every``, ``tolerance`` or ``warm_up`` is given.

    It takes the sampler and its noise levels to act: diffusers' schedulers and the WebUI tell them, for a bare U-Net whoever calls
    `Accelerator.step` does. With samplers for which no forecast was found to be better than fewer steps all steps run.
    """

    declaration = Declaration(
        acts_on=CALL,
        kinds=(Kind(SERVED, "step forecast", "#8a63c9"),),
        later="Accel decides for each picture which steps it forecasts; this is a typical picture",
        group="forecast",
        saves=1.44,
        needs=dict.fromkeys(("level", "tolerance", "largest_gap"), ("every", (0,))),
        title="Forecast",
        hint="on: whole steps are forecast where the picture allows it",
        settings=("level", "every", "tolerance", "largest_gap", "warm_up", "warm_sigma", "last", "order"),
        rare=("tolerance", "largest_gap", "warm_up", "warm_sigma", "last", "order"),
        known_rows=True,
        sigma=lambda config: True,
        check_steps=(8, 10),
    )

    level: str = setting("middle", "choice", "Level", "careful: closest to the full picture; draft: fewest steps run", choices=LEVELS)
    every: int = shared.run_every(0, 0, "", "0: decided for each picture")
    tolerance: float = shared.tolerance("the level's value", step=0.0025)
    largest_gap: int = setting(0, "integer", "Largest gap", "steps forecast in a row; higher: faster; 0: the level's value", 0, 10)
    warm_up: float = shared.warm_up(0.0, "; 0: by the sampler")
    warm_sigma: float = shared.warm_sigma()
    last: int = shared.last(-1, -1, "; -1: by the sampler")
    order: str | float = shared.order()
    window: Window = setting((0.0, 1.0), "window", "Forecast window", "part of the pass in which steps may be forecast")

    def __post_init__(self) -> None:
        check(self)

    def runner(self) -> ForecastRunner:
        return ForecastRunner(self)

    @property
    def is_asked_for(self) -> bool:
        """Whether it was set for this very pass, as few-step models need."""
        return bool(self.every or self.tolerance or self.warm_up)

    def why_not_on_flow(self, steps: int, sampler: Sampler) -> Reason | None:
        """Why nothing of a pass of flow matching may be forecast (a clause), or None."""
        if sampler.adds_noise:
            return Reason.of("noisy_flow", "forecasts with {sampler} on flow matching were not measured", sampler=sampler.name)
        if steps <= FEW_STEPS and not self.is_asked_for:
            return Reason.of("few_step_model", "at {steps} steps it is taken for a few-step model", steps=steps)
        return None

    def leaves_flow_alone(self, steps: int, sampler: str | Sampler) -> bool:
        known = sampler_named(sampler)
        return known is not None and self.why_not_on_flow(steps, known) is not None

    def control(self, sampler: Sampler) -> Control:
        """Tolerance and largest gap with ``sampler``, which can be forecast."""
        level = sampler.forecasting.levels[self.level]
        return Control(self.tolerance or level.tolerance, self.largest_gap or level.largest_gap, level.calls)

    def order_of(self, sampler: Sampler) -> float:
        """Of the forecast with ``sampler``, which can be forecast."""
        return sampler.forecasting.order if self.order == shared.BY_SAMPLER else float(self.order)

    def is_fixed(self, sampler: Sampler) -> bool:
        """Whether which steps run is a fixed plan."""
        return self.every > 0 and sampler.forecasting.fixed

    def decides_for(self, sampler: str | Sampler) -> bool:
        known = sampler_named(sampler)
        return known is not None and known.forecasting is not None and not self.is_fixed(known)

    def runs_all(self, sampler: Sampler) -> bool:
        """Whether that plan leaves no step out."""
        return self.every == 1 and self.is_fixed(sampler)

    def steps_between(self, sampler: Sampler, steps: int, sigmas: Sequence[float] | None = None) -> range:
        """The steps of a pass of ``steps`` that need not always run. sigmas: its noise levels, where they are known."""
        rules = sampler.forecasting
        level = rules.levels[self.level]
        part = self.warm_up or (FIXED_WARM_UP if self.is_fixed(sampler) else level.warm_up)
        first = rules.first(steps, part)
        if sigmas is not None and self.warm_sigma:
            first = max(first, sum(sigma > self.warm_sigma for sigma in sigmas[:steps]))
        last = rules.last if sigmas is None else rules.last_of(sigmas)
        if self.is_fixed(sampler):
            last = 1
        elif level.last is not None:
            last = level.last
        last = self.last if self.last >= 0 else last
        return range(first, max(steps - last, first))

    def forecasts(self, steps: int, sampler: Sampler) -> bool:
        return sampler.forecasting is not None and not self.runs_all(sampler) and bool(self.steps_between(sampler, steps))

    def keeps_guidance(self, sampler: Sampler) -> bool:
        """Whether a kept guidance direction is worth it beside forecasts with ``sampler``, which can be forecast."""
        return not self.is_fixed(sampler) and sampler.forecasting.levels[self.level].keeps_guidance

    def goes_with_kept_guidance(self, steps: int, sampler: Sampler) -> bool | None:
        return self.keeps_guidance(sampler) if self.forecasts(steps, sampler) else None

    def schedule(self, steps: int, scale: float | None = None, sampler: str | Sampler = "", run: Sequence[int] | None = None) -> Schedule:
        told = range(steps) if run is None else run
        known = sampler_named(sampler)
        served: set[int] = set()
        if known is not None and known.forecasting is not None:
            between = self.steps_between(known, steps)
            if self.is_fixed(known):
                served = {step for step in between if (step - between.start) % self.every != self.every - 1}
            else:
                served = _spread(between, round(len(between) * (1 - self._part_run(known, steps))))
        served = {step for step in served if acts_in(self.window, step, steps)}
        fixed = known is not None and known.forecasting is not None and self.is_fixed(known)
        return Schedule(tuple((SERVED,) if step in served else () for step in told), later=not fixed and bool(served))

    def _part_run(self, sampler: Sampler, steps: int) -> float:
        """About how much of the steps that may be forecast run all the same. It follows from how many ran at the levels."""
        levels, own = sampler.forecasting.levels, self.control(sampler)
        if (own.tolerance, own.largest_gap) == (levels[self.level].tolerance, levels[self.level].largest_gap):
            return self._part_of_level(self.level, sampler, steps)[0]
        # Where two levels have a tolerance in common, the faster one, which comes later.
        parts = {level.tolerance: self._part_of_level(name, sampler, steps)[0] for name, level in levels.items()}
        between = len(self._part_of_level(self.level, sampler, steps)[1])
        at_least = between // (own.largest_gap + 1) / max(between, 1)
        return max(_between_levels(parts, own.tolerance), at_least)

    def _part_of_level(self, name: str, sampler: Sampler, steps: int) -> tuple[float, range]:
        """The same at a level, and the steps that may be forecast there."""
        between = Forecast(level=name).steps_between(sampler, steps)
        part = max(sampler.forecasting.levels[name].calls * steps / 25 - (steps - len(between)), 0) / max(len(between), 1)
        return min(part, 1), between

    def spare_step(self, work: StepWork, kinds: tuple[str, ...]) -> None:
        if SERVED in kinds:
            work.rows = 0.0

    def without_fixed_steps(self) -> None:
        """Such samplers choose their noise levels themselves."""

    @classmethod
    def example(cls) -> Forecast:
        return cls(every=2)


def _between_levels(parts: Mapping[float, float], tolerance: float) -> float:
    """The part that runs at ``tolerance``, on the line through those of the two tolerances next to it; 0 to 1."""
    known = sorted(parts)
    after = min(max(bisect(known, tolerance), 1), len(known) - 1)
    low, high = known[after - 1], known[after]
    place = math.log(tolerance / low) / math.log(high / low)
    return min(max(parts[low] + place * (parts[high] - parts[low]), 0.0), 1.0)


def _spread(between: range, count: int) -> set[int]:
    """About ``count`` of these steps, evenly."""
    count = min(max(count, 0), len(between))
    return {between[int((place + 0.5) * len(between) / count)] for place in range(count)}
