"""Guidance skipping: the unconditional branch runs only while it matters; attention is left alone.

Sources: Adaptive Guidance (Castillo et al., arXiv 2312.12487); Applying Guidance in a Limited Interval (Kynkaanniemi et al., arXiv
2404.07724). The direction that is used again follows FasterCache's and LinearAG's idea.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from ..core.fields import SettingError, check, setting
from ..core.method import ROWS, Declaration, Kind, Method, Schedule
from ..core.noise import Noise
from ..core.row_history import RowHistory
from ..core.rows import GUIDANCE_KEPT, Layout, Row, RowPlan, without_guidance
from ..core.schedule import first_step, waiting_for_prompts
from ..core.work import StepWork
from ..engine.contract import Moment, Runner

BY_SAMPLER = "by sampler"
# Why a whole job was guided.
IDLE = {
    "similar": "both predictions were never so alike",
    "after": "no step came after the guided part",
    "outside": "no step was outside the interval",
}


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
    order: 0 keeps the direction of the last guided step, 1 continues it from the last two along the noise level; ``by sampler`` (default)
    is 1 with samplers of the first order that add no noise (Euler, DDIM), where sampler and noise levels are known, else 0.
    every: after a guided step, guide again in every such step; 0 never, 1 guides always. With ``reuse``, how often the direction is
    refreshed.

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
        later="guidance is skipped when it matters little",
        group="guidance",
        saves=1.24,
        needs={
            "threshold": ("when", ("similar",)),
            "after": ("when", ("after",)),
            "sigma_low": ("when", ("outside",)),
            "sigma_high": ("when", ("outside",)),
        },
        title="Guidance skip",
        hint="on: the negative prompt is left out where it matters little",
        settings=("when", "threshold", "after", "sigma_low", "sigma_high", "reuse", "every"),
        at_scale_one=lambda: GuidanceSkip(when="after", after=1.0),
        known_rows=True,
        sigma=lambda config: config.when == "outside" or config.reuse,
        check_steps=(2, 2),
    )

    when: str = setting(
        "similar",
        "choice",
        "When",
        "similar: once both predictions agree; outside: an interval of sigma",
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
        "1: continued along a line, 0: as it was; by sampler is best",
        choices=(BY_SAMPLER, 0, 1),
    )
    every: int = setting(0, "integer", "Guide again every", "steps; lower: slower, closer to full guidance; 0: never", 0, 1000)

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

    def schedule(self, steps: int, scale: float | None = None, sampler: str = "", run: Sequence[int] | None = None) -> Schedule:
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

    def spare_step(self, work: StepWork, kinds: tuple[str, ...]) -> None:
        if kinds:
            work.rows = min(work.rows, 1)

    def without_fixed_steps(self) -> GuidanceSkip:
        """No step is known to be behind a part of them; at guidance scale 1 all are unguided all the same."""
        return replace(self, after=1.0) if self.when == "after" else self

    @classmethod
    def example(cls) -> GuidanceSkip:
        return cls(when="after", after=0.5)


class GuidanceSkipRunner(Runner):
    """Guidance skipping at work."""

    window = (0.0, 1.0)

    def __init__(self, config: GuidanceSkip) -> None:
        super().__init__(config)
        self._skipped = False
        self.reset()

    def reset(self) -> None:
        self._skips = False
        self._last_guided: int | None = None
        self._predictions = RowHistory()
        self._directions = RowHistory(depth=2)
        self._cosines: dict[int, torch.Tensor] = {}
        self._passed: set[int] = set()
        self._units_unknown = False

    def begin_step(self, moment: Moment) -> None:
        self._skips = self._decide(moment)
        self._predictions.clear()
        self._tell_idle()

    def drop_rows(self, moment: Moment) -> RowPlan | None:
        self.changes_fill = self.config.reuse and self._last_guided is not None and moment.guidance != 1
        if not self._skips or moment.dropped:
            return None
        plan, reason = without_guidance(moment.rows)
        if reason:
            self.account.note(GUIDANCE_KEPT + reason)
        elif plan is not None and moment.guidance == 1:
            self.account.note("at guidance scale 1, where it changes nothing")
        return plan

    def end_call(self, moment: Moment, prediction: torch.Tensor, ran: tuple[int, ...]) -> None:
        if not ran or not moment.rows.known:
            return
        self._keep(moment, prediction, ran)
        for row in ran:
            # Separate calls: whichever half comes last completes the picture.
            self._compare(moment, moment.rows[row].image)

    def direction(self, moment: Moment, image: int) -> torch.Tensor | None:
        kept = self._direction(moment, Row("uncond", image)) if self.changes_fill else None
        return None if kept is None else self._fading(moment) * kept[0]

    # -- when --------------------------------------------------------------------------------------------------------------

    def _decide(self, moment: Moment) -> bool:
        """Whether the step of ``moment`` goes unguided."""
        if moment.guidance == 1:
            return True
        skips = self._is_time(moment)
        if not self._knows_other_prompts(moment):
            return skips
        self._passed.clear()
        if skips:
            self.account.note(waiting_for_prompts("guidance skipping", moment.settled, moment.step.total))
        return False

    def _tell_idle(self) -> None:
        self._skipped |= self._skips
        never = self.config.when == "after" and self.config.after == 1
        self.account.is_idle(None if self._skipped or never else IDLE[self.config.when])

    def _knows_other_prompts(self, moment: Moment) -> bool:
        """Whether what was learnt so far, and is used, was learnt with prompts that do not stay."""
        uses = self.config.reuse or self.config.when == "similar"
        return uses and self._last_guided is not None and min(moment.step.index, self._last_guided) < moment.settled

    def _is_time(self, moment: Moment) -> bool:
        settings = self.config
        can_learn = self._last_guided is not None or any(row.role == "uncond" for row in moment.rows)
        if can_learn and settings.looks_up(moment.step.index, self._last_guided):
            return False
        if settings.when == "after":
            return settings.after < 1 and moment.step.within((settings.after, 1.0))
        if settings.when == "outside":
            sigma = moment.noise().sigma
            if sigma is None:
                self.account.note(GUIDANCE_KEPT + "nobody told the noise level")
                return False
            return not settings.sigma_low < sigma <= settings.sigma_high
        # Read now, a step later, so that a GPU need not be waited for.
        self._passed |= {image for image, cosine in self._cosines.items() if float(cosine) >= settings.threshold}
        return bool(self._cosines) and self._passed >= self._cosines.keys()

    # -- what --------------------------------------------------------------------------------------------------------------

    def _keep(self, moment: Moment, prediction: torch.Tensor, ran: tuple[int, ...]) -> None:
        """Keep a guided step's predictions until both halves are there."""
        noise = _noise_of(moment)
        # Inpainting models are given more channels than the latents', PixArt predicts a variance too.
        prediction = prediction[list(ran), : moment.sample.shape[1]]
        epsilon = noise.as_epsilon(prediction, moment.sample[list(ran), : prediction.shape[1]])
        if epsilon is None:
            self._unknown_units(noise.kind)
            epsilon = prediction.float()
        self._predictions.put("epsilon", Layout(moment.rows[row] for row in ran), epsilon)

    def _compare(self, moment: Moment, image: int) -> None:
        """Cosine and direction of one picture, once both halves are there."""
        rows = [row for row in self._predictions.rows("epsilon") if row.image == image]
        parts = [row for row in rows if row.role == "cond"]
        unconds = Layout(row for row in rows if row.role == "uncond")
        if not parts or not unconds:
            return
        uncond = self._predictions.at("epsilon", unconds)[0]
        total = sum(row.weight for row in parts) or 1.0
        cond = sum(row.weight / total * self._predictions.at("epsilon", [row])[0] for row in parts)
        self._last_guided = moment.step.index
        if self.config.when == "similar" and not self._units_unknown:
            self._cosines[image] = F.cosine_similarity(cond.flatten(), uncond.flatten(), dim=0)
        if self.config.reuse:
            self._directions.put("direction", unconds, (cond - uncond)[None], self._level(moment) or float(moment.step.index))

    def fill_dropped(self, moment: Moment, prediction: torch.Tensor, rows: tuple[int, ...]) -> None:
        """Such that a host's u + w * (c - u) gives c + (w - 1) * fading * direction for every w."""
        fading = self._fading(moment) * (_noise_of(moment).per_epsilon or 1.0)
        for index in rows:
            direction = self._direction(moment, moment.rows[index]) if moment.rows[index].role == "uncond" else None
            if direction is not None and direction.shape[2:] == prediction.shape[2:]:
                prediction[index, : direction.shape[1]] -= (fading * direction[0]).to(prediction)

    def _direction(self, moment: Moment, row: Row) -> torch.Tensor | None:
        """[1, channels, h, w] the direction of ``row``'s picture, continued to this step."""
        level = self._level(moment)
        return self._directions.at("direction", [row], level or 0.0, 0 if level is None else 1)

    def _level(self, moment: Moment) -> float | None:
        """The noise level along which directions are continued; None: they are kept as they were."""
        sampler, order = moment.sampler, self.config.order
        if order == BY_SAMPLER:
            order = int(sampler is not None and sampler.order == 1 and not (sampler.adds_noise or sampler.multistep or sampler.distilled))
        if not order:
            return None
        return moment.noise().sigma if moment.sigmas is None else moment.sigmas[min(moment.step.index, len(moment.sigmas) - 1)]

    def _fading(self, moment: Moment) -> float:
        return self.config.decay ** (moment.step.index - self._last_guided)

    def _unknown_units(self, kind: str) -> None:
        self._units_unknown = True
        if self.config.when == "similar":
            self.account.note(GUIDANCE_KEPT + f"the U-Net predicts {kind} and nobody told the noise level")


def _noise_of(moment: Moment) -> Noise:
    """The noise for units alone: a predicted epsilon has its own, whatever the level."""
    return Noise() if moment.predicts == "epsilon" else moment.noise()
