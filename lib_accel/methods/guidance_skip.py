"""Guidance skipping: the unconditional branch runs only while it matters; attention is left alone.

Sources: Adaptive Guidance (Castillo et al., arXiv 2312.12487); Applying Guidance in a Limited Interval (Kynkaanniemi et al., arXiv
2404.07724). The direction that is used again follows FasterCache's and LinearAG's idea.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.fields import SettingError, check, setting
from ..core.method import ROWS, Declaration, Kind, Method, Schedule
from ..core.samplers import Sampler, sampler_named
from ..core.schedule import first_step
from ..core.work import StepWork
from .guidance_skip_runner import BY_SAMPLER, GuidanceSkipRunner
from .standing_aside import only_where_better, stands_aside


@dataclass(frozen=True)
class GuidanceSkip(Method):
    """Settings of guidance skipping. SettingError when one is out of range.

    when: ``similar`` skips once the noise predicted with and without the prompt points the same way, for good; ``after`` from a fraction of
    the pass on; ``outside`` an interval of noise levels. Whatever it is, at guidance scale 1 (where a host tells it) all of the pass is
    unguided, which changes nothing.
    threshold: for ``similar``: cosine of the two predictions from which a picture has passed, 0 to 1; a batch switches when all have.
    Higher: later. 0.99 to 1 is sensible.
    after: for ``after``: fraction of the pass, above 0 and up to 1 (never).
    sigma_low, sigma_high: for ``outside``: guidance at noise levels above the first and up to the second; 0 or more.
    reuse: unguided steps keep the direction of the last guided one, so that contrast and colour stay. The first step is guided then.
    decay: by how much that direction fades with every step, 0 (at once) to 1 (never).
    order: 0 keeps the direction of the last guided step, 1 continues it from the last two along the noise level, no further than these
    are apart, and keeps it from there on; ``by sampler`` (default) is 1 with samplers of the first order that add no noise (Euler, DDIM),
    where sampler and noise levels are known, else 0.
    every: after a guided step, guide again in every such step; 0 never, 1 guides always. With ``reuse``, how often the direction is
    refreshed.
    only_where_better: stand aside where fewer steps or forecast ones are nearer to the full picture in the same time: in passes whose steps
    `Forecast` forecasts, unless with this sampler and level both together are nearer (`Control.keeps_guidance`), and in other passes with
    samplers that add noise. Where nobody tells the sampler it acts.

    Cosine and direction are those of the predicted noise. Where a U-Net predicts v or the picture they are converted by the noise levels
    that the pipeline, the model or the host tells; where nobody does, ``similar`` never switches and a direction is used as it is.
    Both say nothing of other prompts: where a host tells that prompts change, they are those of the prompts that stay.
    """

    declaration = Declaration(
        acts_on=ROWS,
        kinds=(
            Kind("unguided", "no negative prompt", "#c0587e", line=True),
            Kind("kept", "guidance direction kept", "#d9a0b5", line=True),
        ),
        later="guidance is skipped once both predictions agree",
        group="guidance",
        saves=1.24,
        needs={
            "threshold": ("when", ("similar",)),
            "after": ("when", ("after",)),
            "sigma_low": ("when", ("outside",)),
            "sigma_high": ("when", ("outside",)),
            "decay": ("reuse", (True,)),
            "order": ("reuse", (True,)),
        },
        title="Guidance skip",
        hint="on: the negative prompt is skipped in part of the steps",
        settings=("when", "threshold", "after", "sigma_low", "sigma_high", "reuse", "every", "only_where_better", "decay", "order"),
        rare=("decay", "order"),
        late=("only_where_better", "decay", "order"),
        at_scale_one=lambda: GuidanceSkip(when="after", after=1.0),
        known_rows=True,
        sigma=lambda config: config.when == "outside" or config.reuse,
        check_steps=(2, 2),
    )

    when: str = setting(
        "similar",
        "choice",
        "When",
        "similar: once both predictions agree; after: after a part of the steps; outside: outside a range of sigma",
        choices=("similar", "after", "outside"),
    )
    threshold: float = setting(0.994, "number", "Similarity", "higher: guidance is skipped later", 0, 1, step=0.001)
    after: float = setting(0.5, "number", "Guided part", "higher: guidance is skipped later", 0, 1, above_low=True)
    sigma_low: float = setting(0.28, "number", "Lowest guided sigma", "higher: guidance ends earlier", 0)
    sigma_high: float = setting(5.42, "number", "Highest guided sigma", "lower: guidance begins later", 0)
    reuse: bool = setting(False, "flag", "Keep the direction", "on: contrast and colour stay, artefacts may too")
    decay: float = setting(1.0, "number", "Direction kept per step", "lower: fades faster", 0, 1)
    order: str | int = setting(
        BY_SAMPLER,
        "choice",
        "Order of the direction",
        "1: continued along a line; 0: kept as it was",
        choices=(BY_SAMPLER, 0, 1),
    )
    every: int = setting(
        0, "integer", "Guide again every", "3: every third step is guided; lower: closer to full guidance; 0: never", 0, 1000
    )
    only_where_better: bool = only_where_better()

    def __post_init__(self) -> None:
        check(self)
        wrong = self.disagreement(vars(self), "GuidanceSkip.")
        if wrong:
            raise SettingError(wrong)

    @classmethod
    def disagreement(cls, values: Mapping[str, Any], prefix: str) -> str | None:
        low, high = values["sigma_low"], values["sigma_high"]
        if values["when"] != "outside" or low < high:
            return None
        return f"{prefix}sigma_low is {low:g} and {prefix}sigma_high is {high:g}; the first must be below the second."

    def runner(self) -> GuidanceSkipRunner:
        return GuidanceSkipRunner(self)

    def looks_up(self, step: int, last_guided: int | None) -> bool:
        """Whether ``step`` (from 0) is guided after all. last_guided: the last guided step before it; None: there was none.

        Without one there is no direction to keep: a pass, a new model and a cleared history begin guided where one is to be kept.
        """
        if last_guided is None:
            return self.reuse
        return self.every > 0 and step - last_guided >= self.every

    def guided_steps(self, steps: int, run: Iterable[int] | None = None) -> list[bool]:
        """For ``when="after"``, where it is known in advance: which steps of a pass of ``steps`` are guided. run: those of them, in order,
        that are run at all (default: all); the list is of these."""
        start = steps if self.after == 1 else first_step(self.after, steps)
        guided: list[bool] = []
        last: int | None = None
        for step in range(steps) if run is None else run:
            guided.append(step < start or self.looks_up(step, last))
            last = step if guided[-1] else last
        return guided

    def schedule(self, steps: int, scale: float | None = None, sampler: str | Sampler = "", run: Sequence[int] | None = None) -> Schedule:
        told = list(range(steps) if run is None else run)
        if scale == 1:
            return Schedule((("unguided",),) * len(told))
        if self.when != "after":
            return Schedule(((),) * len(told), even=False, later=True)
        guided = self.guided_steps(steps, told)
        # Without a guided step before there is no direction to keep.
        otherwise = ("kept" if self.reuse and guided and guided[0] else "unguided",)
        edge = first_step(self.after, steps)
        return Schedule(tuple(() if now else otherwise for now in guided), edges=frozenset({edge}))

    def stands_aside(self, beside: Iterable[Method], steps: int, sampler: str | Sampler) -> bool:
        known = sampler_named(sampler)
        if not self.only_where_better or known is None:
            return False
        return stands_aside((method.goes_with_kept_guidance(steps, known) for method in beside), known)

    def spare_step(self, work: StepWork, kinds: tuple[str, ...]) -> None:
        if kinds:
            work.rows = min(work.rows, 1)

    def without_fixed_steps(self) -> GuidanceSkip:
        """No step is known to be behind a part of them; at guidance scale 1 all are unguided all the same."""
        return replace(self, after=1.0) if self.when == "after" else self

    @classmethod
    def example(cls) -> GuidanceSkip:
        return cls(when="after", after=0.5)
