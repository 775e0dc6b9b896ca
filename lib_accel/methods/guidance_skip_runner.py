"""Guidance skipping at work on one U-Net: when guidance is left out, and the direction that goes on without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..core.noise import Noise
from ..core.reasons import Reason
from ..core.row_history import RowHistory
from ..core.rows import Layout, Row, RowPlan, guidance_kept, shares_of, without_guidance
from ..core.schedule import waiting_for_prompts
from ..engine.contract import Moment, Runner
from .standing_aside import why_aside

if TYPE_CHECKING:
    from .guidance_skip import GuidanceSkip

BY_SAMPLER = "by sampler"
NO_LEVEL = Reason.of("no_level", "the noise level is not known")
UNGUIDED = Reason.of("unguided_job", "no row was guided, so there was nothing to leave out")
ENDED = Reason.of("guidance_ended", "guidance had already ended, so there was nothing to leave out")
ALWAYS = Reason.of("always_guided", "its settings guide every step")
# Why a whole job was guided.
IDLE = {
    "similar": Reason.of("never_alike", "the two predictions were never similar enough"),
    "after": Reason.of("nothing_after", "no step came after the guided part"),
    "outside": Reason.of("nothing_outside", "no step was outside the interval"),
}


class GuidanceSkipRunner(Runner):
    """Guidance skipping at work."""

    window = (0.0, 1.0)

    def __init__(self, config: GuidanceSkip) -> None:
        super().__init__(config)
        self._skipped = self._saw_guidance = False
        # The direction that is kept is that between both predictions, whatever it is scaled by.
        self.outlives_scale = config.reuse
        self.reset()

    def reset(self) -> None:
        self._skips = False
        # Why the step at hand is better off without it, if it is.
        self._aside: str | None = None
        self._last_guided: int | None = None
        self._predictions = RowHistory()
        self._directions = RowHistory(depth=2)
        self._cosines: dict[int, torch.Tensor] = {}
        self._passed: set[int] = set()
        self._units_unknown = False
        # Of the latents that all of this is of.
        self._size: tuple[int, ...] | None = None

    def begin_step(self, moment: Moment) -> None:
        # A host that asks before its calls has no latents at hand.
        size = self._size if moment.sample is None else tuple(moment.sample.shape[1:])
        if self._size not in (None, size):
            # A direction of another size is none, and nobody knows how alike predictions are at this one.
            self.reset()
        self._size = size
        self._skips = self._decide(moment)
        self._predictions.clear()
        self._skipped |= self._skips

    def begin_call(self, moment: Moment) -> None:
        self._saw_guidance |= not moment.rows.known or any(row.role != "cond" for row in moment.rows)
        self._tell_idle()

    def drop_rows(self, moment: Moment) -> RowPlan | None:
        self.changes_fill = self.config.reuse and self._last_guided is not None and moment.guidance != 1
        if not self._skips or moment.dropped:
            return None
        plan, reason = without_guidance(moment.rows)
        if reason:
            self.account.note(guidance_kept(reason))
        elif plan is not None and moment.guidance == 1:
            self.account.note(Reason.of("scale_one", "at guidance scale 1, where it changes nothing"))
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
        self._aside = None
        if moment.guidance == 1:
            return True
        if self.config.only_where_better:
            self._aside = why_aside((runner.goes_with_kept_guidance(moment) for runner in self.at_work), moment)
            if self._aside is not None:
                return False
        skips = self._is_time(moment)
        if not self._knows_other_prompts(moment):
            return skips
        self._passed.clear()
        if skips:
            self.account.note(waiting_for_prompts("guidance skipping", moment.settled, moment.step.total))
        return False

    def _tell_idle(self) -> None:
        settings = self.config
        if not self._saw_guidance:
            self.account.is_idle(UNGUIDED)
        elif self._aside is not None:
            self.account.is_idle(self._aside)
        elif self._skipped:
            self.account.is_idle(ENDED)
        else:
            always = settings.every == 1 or (settings.when == "after" and settings.after == 1)
            self.account.is_idle(ALWAYS if always else IDLE[settings.when])

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
                self.account.note(guidance_kept(NO_LEVEL))
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
        derivative = noise.as_derivative(prediction, moment.sample[list(ran), : prediction.shape[1]])
        if derivative is None:
            self._unknown_units(noise.kind)
            derivative = prediction.float()
        self._predictions.put("derivative", Layout(moment.rows[row] for row in ran), derivative)

    def _compare(self, moment: Moment, image: int) -> None:
        """Cosine and direction of one picture, once both halves are there."""
        rows = [row for row in self._predictions.rows("derivative") if row.image == image]
        parts = [row for row in rows if row.role == "cond"]
        unconds = Layout(row for row in rows if row.role == "uncond")
        if not parts or not unconds:
            return
        if self.config.reuse and not _per_epsilon(moment):
            # Where all is noise a direction of the noise is none: the next step is guided, too.
            return
        uncond = self._predictions.at("derivative", unconds)[0]
        shares = shares_of([row.weight for row in parts])
        cond = sum(share * self._predictions.at("derivative", [row])[0] for share, row in zip(shares, parts))
        self._last_guided = moment.step.index
        if self.config.when == "similar" and not self._units_unknown:
            self._cosines[image] = F.cosine_similarity(cond.flatten(), uncond.flatten(), dim=0)
        if self.config.reuse:
            direction = (cond - uncond)[None] * _per_epsilon(moment)
            self._directions.put("direction", unconds, direction, self._level(moment) or float(moment.step.index))

    def fill_dropped(self, moment: Moment, prediction: torch.Tensor, rows: tuple[int, ...]) -> None:
        """Such that a host's u + w * (c - u) gives c + (w - 1) * fading * direction for every w."""
        fading = self._fading(moment) * (_noise_of(moment).per_derivative or 1.0) / (_per_epsilon(moment) or 1.0)
        for index in rows:
            direction = self._direction(moment, moment.rows[index]) if moment.rows[index].role == "uncond" else None
            if direction is not None and direction.shape[2:] == prediction.shape[2:]:
                prediction[index, : direction.shape[1]] -= (fading * direction[0]).to(prediction)

    def _direction(self, moment: Moment, row: Row) -> torch.Tensor | None:
        """[1, channels, h, w] the direction of ``row``'s picture, continued to this step; held where that is too far to continue."""
        level = self._level(moment)
        near = level is not None and self._is_near(level, row)
        return self._directions.at("direction", [row], level or 0.0, 1 if near else 0)

    def _is_near(self, level: float, row: Row) -> bool:
        """Whether ``level`` is no further from the last guided step than the one before that was. Beyond it a line is further off than the
        direction itself: 12 steps of Euler, guided every 7th from .2 on, 13.8 dB against 18.6 (latents of the sample model)."""
        kept = self._directions.newest("direction", row, 2)
        return len(kept) == 2 and abs(level - kept[0].coordinate) <= abs(kept[0].coordinate - kept[1].coordinate)

    def _level(self, moment: Moment) -> float | None:
        """The noise level along which directions are continued; None: they are kept as they were."""
        sampler, order = moment.sampler, self.config.order
        if order == BY_SAMPLER:
            known = sampler is not None and sampler.known
            order = int(known and sampler.order == 1 and not (sampler.adds_noise or sampler.multistep or sampler.distilled))
        if not order:
            return None
        return moment.noise().sigma if moment.sigmas is None else moment.sigmas[min(moment.step.index, len(moment.sigmas) - 1)]

    def _fading(self, moment: Moment) -> float:
        return self.config.decay ** (moment.step.index - self._last_guided)

    def _unknown_units(self, kind: str) -> None:
        self._units_unknown = True
        if self.config.when == "similar":
            self.account.note(
                guidance_kept(Reason.of("no_level_for_units", "the U-Net predicts {kind} and the noise level is not known", kind=kind))
            )


def _noise_of(moment: Moment) -> Noise:
    """The noise for units alone: a predicted derivative has its own, whatever the level."""
    untold = Noise(moment.predicts, mixed=moment.mixed)
    return moment.noise() if untold.per_derivative is None else untold


def _per_epsilon(moment: Moment) -> float:
    """By how much predicted noise changes when what is kept of a prediction changes by one, at the same latents."""
    noise = Noise() if moment.mixed != "flow" else moment.noise()
    return 1.0 if noise.signal is None or not noise.is_flow else noise.signal
