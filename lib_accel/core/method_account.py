"""What one method did, counted while it runs, and the same as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .fields import changed, described
from .reasons import Reason, as_data, as_true
from .served_steps import ServedSteps
from .step_count import StepCount


class MethodAccount:
    """Counts of one method while it runs."""

    def __init__(self, name: str, config: Any) -> None:
        self.name = name
        self.config = config
        self.effects: dict[str, set[str]] = {}
        self.steps = StepCount()
        self.calls = 0
        self.tokens_in = 0
        self.tokens_run = 0
        self.reasons: dict[str, set[str]] = {}
        self.too_small: set[str] = set()
        self.failed: str | None = None
        self.off: str | None = None
        self.idle: str | None = None
        # Whether a step lay in its window, and which method's drop left it nothing.
        self.was_at_work = False
        self.missed_window: tuple[float, float] | None = None
        self.behind: str | None = None
        self.notes: set[str] = set()
        self.dropped_steps = StepCount()
        self.kept_steps = StepCount()
        self.rows_dropped = 0
        self.served_steps = ServedSteps()
        self.shallow_steps = StepCount()
        # The same by pass and picture.
        self.shallow_in = ServedSteps()
        self.rows_shallow = 0
        self.cache_bytes = 0

    def is_idle(self, why: str | None) -> None:
        """Why this method did nothing so far, by its own settings (a clause); told only where it did nothing to the end."""
        self.idle = why

    def _told(self) -> list[dict[str, Any]]:
        """Everything that is told in words, as data; with the number of layers where it is about some."""
        layers = [as_data(reason) | {"layers": len(sites)} for reason, sites in sorted(self.reasons.items())]
        whole = [*as_true(self.notes, self._acted), self.off, None if self.notes else self._why_idle()]
        failed = [{"code": "failed", "text": self.failed}] if self.failed else []
        return [as_data(clause) for clause in whole if clause] + layers + failed

    @property
    def _acted(self) -> bool:
        """Whether it did anything."""
        return bool(self.effects or self.rows_dropped or self.served_steps or self.shallow_steps)

    def _why_idle(self) -> str | None:
        """Why it did nothing, where nothing else says so."""
        if self._acted:
            return None
        if self.behind:
            return Reason.of("behind", "{method} already leaves out the same rows", method=self.behind)
        if self.idle or self.off or self.failed or self.notes or self.reasons:
            return self.idle
        if self.was_at_work:
            return Reason.of("nothing_to_do", "its settings leave it nothing to do on this U-Net")
        if self.missed_window:
            start, end = self.missed_window
            return Reason.of("empty_window", "no step lay in its window ({start:g}, {end:g})", start=start, end=end)
        return None

    def note(self, text: str) -> None:
        """Something that concerns the whole U-Net (a clause)."""
        self.notes.add(text)

    def dropped(self, pass_and_step: tuple[int, int], rows: int, kept: bool = False) -> None:
        """``rows`` rows of a U-Net call in this step were not run. kept: guidance goes on there in the direction known last."""
        (self.kept_steps if kept else self.dropped_steps).add(pass_and_step)
        self.rows_dropped += rows

    def served(self, pass_and_step: tuple[int, int], picture: int, ran: bool = False) -> None:
        """The whole U-Net call of ``picture`` (from 0) was served in this step; or it ran, if only for some of its rows."""
        self.served_steps.add(pass_and_step, picture, ran)

    def shallow(self, pass_and_step: tuple[int, int], pictures: Sequence[int], ran: Sequence[int] = ()) -> None:
        """Deep stages of the U-Net were served in this step to rows of these pictures (from 0), one entry a row. ran: the same of rows that
        ran in whole."""
        for picture in ran:
            self.shallow_in.add(pass_and_step, picture, ran=True)
        for picture in pictures:
            self.shallow_in.add(pass_and_step, picture)
        if pictures:
            self.shallow_steps.add(pass_and_step)
        self.rows_shallow += len(pictures)

    def keeps(self, nbytes: int) -> None:
        """Caches take up ``nbytes`` now; the most counts."""
        self.cache_bytes = max(self.cache_bytes, nbytes)

    def acted(self, effect: str, site: str) -> None:
        """``effect`` (``merging``, ``agents``) took place at ``site``."""
        self.effects.setdefault(effect, set()).add(site)

    def stood_down(self, reason: str, site: str) -> None:
        """The layer's own computation ran at ``site``, because of ``reason`` (a short clause)."""
        self.reasons.setdefault(reason, set()).add(site)

    def is_too_small(self, reason: str, site: str) -> None:
        """The same, because the method would not pay on so few tokens."""
        self.stood_down(reason, site)
        self.too_small.add(site)

    @property
    def layers(self) -> set[str]:
        return set().union(*self.effects.values()) if self.effects else set()

    def as_dict(self) -> dict[str, Any]:
        return {
            "method": self.name,
            "acts_on": getattr(getattr(self.config, "declaration", None), "acts_on", ""),
            "settings": described(self.config),
            "changed": changed(self.config),
            "layers": len(self.layers),
            "layers_by_effect": {effect: len(sites) for effect, sites in sorted(self.effects.items())},
            "steps": len(self.steps),
            "layer_calls": self.calls,
            "tokens_in": self.tokens_in,
            "tokens_run": self.tokens_run,
            "stood_down": {reason: len(sites) for reason, sites in sorted(self.reasons.items())},
            "too_small": len(self.too_small),
            "failed": self.failed,
            "off": self.off,
            "idle": self._why_idle(),
            "notes": as_true(self.notes, self._acted),
            "reasons": self._told(),
            "unguided_steps": len(self.dropped_steps),
            "kept_direction_steps": len(self.kept_steps),
            "evaluations_saved": self.rows_dropped,
            "served": self.served_steps.as_list(),
            "served_before": self.served_steps.before,
            "shallow_steps": len(self.shallow_steps),
            "shallow_in": self.shallow_in.as_list(),
            "rows_shallow": self.rows_shallow,
            "cache_bytes": self.cache_bytes,
        }
