"""DeepCache: deep stages of the U-Net are served in steps between whole ones, while the shallow ones run.

Source: DeepCache (Ma et al., arXiv 2312.00858), its helper 0.1.1. Ours besides: a warm-up, features that are continued, error control;
with Forecast one decision for both (`shallow_calls`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..core.fields import check, setting
from ..core.method import STAGES, Declaration, Kind, Method, Schedule
from ..core.samplers import Sampler, sampler_named
from ..core.schedule import Window, acts_in, first_step
from ..core.stages import Stage
from ..core.work import StepWork
from . import shared_settings as shared
from .deep_cache_runner import DeepCacheRunner
from .standing_aside import only_where_better, stands_aside

SHALLOW = "shallow"
# Levels of the U-Net that run in whole, by the name of the branch.
LEVELS = {"top level": 1, "two levels": 2}
# Up stages of the U-Nets that there are.
BRANCHES = 12


@dataclass(frozen=True)
class DeepCache(Method):
    """Settings of serving deep stages. SettingError when one is out of range.

    every: after the warm-up every such step runs in whole, from 1 (all do). Higher: faster, further from the full run.
    branch: which stages run in the steps between, in the published numbering: 0 the last ResBlock alone (fastest), 1 the last two and the
    first, and so on inwards; one that the U-Net does not have is its innermost. ``top level`` and ``two levels``: all of these.

    Rarely changed:
    tolerance: how far what is served may be off, as a part of its own size, by what was seen of the picture so far; where it would be
    further off, the step runs in whole. 0 (default): whatever the picture.
    warm_up: part of the steps that always run first. Lower: faster. 0: none, as published.
    warm_sigma: all steps run until the noise level is down to this; 0: does not count.
    last: steps that always run at the end, from 0 (as published).
    order: 0 holds what was kept last (as published), 1 continues along the line through the last two, 0.5 is half way; ``by sampler``: 1
    with samplers of the first order that add no noise, where the sampler is told, otherwise 0.
    only_where_better: stand aside where fewer steps or forecast ones are nearer to the full picture in the same time: in passes of
    which `Forecast` decides, and with samplers that add noise. Where nobody tells the sampler it acts.
    offload: what is kept lies in main memory: slower, for GPUs that are short of it. A row takes 2.5 MiB at branch 0 of SD1.5 at 512x512 in
    half precision, twice that at order 1.
    window: (start, end) in fractions of the pass in which deep stages may be served.

    With ``warm_up=0, last=0, order=0`` it is the published method. Steps are counted, not looked up by their timesteps.

    With a `Forecast` that decides for each picture, there is one decision: a step that is not forecast runs its shallow stages alone where
    the error expected of that fits into what the forecast's tolerance leaves. ``every`` then says how many such steps there may be between
    two whole ones, less 1; ``tolerance``, ``warm_up``, ``warm_sigma`` and ``last`` are the forecast's. The shallow stages run once more
    behind whole calls, to measure that error.
    """

    declaration = Declaration(
        acts_on=STAGES,
        kinds=(Kind(SHALLOW, "shallow stages only", "#3f9384"),),
        later="more steps run the whole U-Net where the picture changes too fast",
        group="deepcache",
        saves=1.38,
        title="DeepCache",
        hint="on: in some steps only the shallow stages of the U-Net run",
        settings=("every", "branch", "only_where_better", "tolerance", "warm_up", "warm_sigma", "last", "order"),
        rare=("tolerance", "warm_up", "warm_sigma", "last", "order"),
        late=("only_where_better",),
        known_rows=True,
        sigma=lambda config: True,
        check_steps=(3, 4),
    )

    every: int = shared.run_every(2, 1, " the whole U-Net", "1: all")
    branch: str | int = setting(
        0,
        "choice",
        "Branch",
        "stages that run in the other steps; 0: fastest; higher: closer to the full picture",
        choices=(*LEVELS, *range(BRANCHES)),
    )
    tolerance: float = shared.tolerance("no limit")
    warm_up: float = shared.warm_up(0.32)
    warm_sigma: float = shared.warm_sigma()
    last: int = shared.last(1)
    order: str | float = shared.order()
    only_where_better: bool = only_where_better()
    offload: bool = setting(False, "flag", "Caches in main memory", "on: slower, less GPU memory")
    window: Window = setting((0.0, 1.0), "window", "DeepCache window", "part of the pass in which deep stages may be served")

    def __post_init__(self) -> None:
        check(self)

    def runner(self) -> DeepCacheRunner:
        return DeepCacheRunner(self)

    def branch_in(self, levels: Sequence[int]) -> int:
        """The branch by its number. levels: of the up stages, the last one first."""
        number = sum(level < LEVELS[self.branch] for level in levels) - 1 if self.branch in LEVELS else self.branch
        return min(number, len(levels) - 1)

    def order_of(self, sampler: Sampler | None) -> float:
        """Of what is served with ``sampler``; None: nobody tells it."""
        if self.order != shared.BY_SAMPLER:
            return float(self.order)
        smooth = sampler is not None and sampler.forecasting is not None and sampler.order == 1 and not sampler.adds_noise
        return 1.0 if smooth else 0.0

    def before(self, stages: Sequence[Stage]) -> Stage:
        """The up stage that what is kept enters."""
        ups = [stage for stage in reversed(stages) if stage.place == "up"]
        return ups[self.branch_in([stage.level for stage in ups])]

    def schedule(self, steps: int, scale: float | None = None, sampler: str | Sampler = "", run: Sequence[int] | None = None) -> Schedule:
        served, whole = set(), None
        for step in range(steps) if run is None else run:
            between = first_step(self.warm_up, steps) <= step < steps - self.last and acts_in(self.window, step, steps)
            if between and whole is not None and step - whole < self.every:
                served.add(step)
            else:
                whole = step
        told = range(steps) if run is None else run
        return Schedule(tuple((SHALLOW,) if step in served else () for step in told), later=self.tolerance > 0 and bool(served))

    def stands_aside(self, beside: Iterable[Method], steps: int, sampler: str | Sampler) -> bool:
        known = sampler_named(sampler)
        if not self.only_where_better or known is None:
            return False
        decide = (method.forecasts(steps, known) or method.decides_for(known) for method in beside)
        return stands_aside((False if decides else None for decides in decide), known)

    def schedule_beside(self, others: Iterable[Method], steps: int, scale: float | None, sampler: str | Sampler) -> Schedule:
        decides = next((other for other in others if other.decides_for(sampler)), None)
        if decides is None or self.every == 1:
            return self.schedule(steps, scale, sampler)
        forecast = decides.schedule(steps, scale, sampler).kinds
        between = decides.steps_between(sampler_named(sampler), steps)
        left = [step for step in between if not forecast[step] and acts_in(self.window, step, steps)]
        # Measured with Euler and DPM++ 2M: from a quarter to a half of what is not forecast.
        served = set(left[1::3] if self.every == 2 else left[1::2])
        measured = len(left) - len(served) + 1 if served else 0
        return Schedule(tuple((SHALLOW,) if step in served else () for step in range(steps)), later=bool(served), again=measured)

    def spare_step(self, work: StepWork, kinds: tuple[str, ...]) -> None:
        if SHALLOW in kinds and work.shallow:
            part = work.shallow[self.branch_in([level for level, _, _ in work.shallow])]
            _, work.rest, blocks = part
            work.blocks.update(blocks)

    def without_fixed_steps(self) -> None:
        """Such samplers take steps of any size, and again what they took."""

    def sparing_memory(self) -> DeepCache:
        return replace(self, offload=True)

    @classmethod
    def example(cls) -> DeepCache:
        return cls(warm_up=0.5, last=0)
