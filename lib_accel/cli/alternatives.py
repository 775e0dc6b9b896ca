"""What people can do without Accel for the same time: fewer steps, and the WebUI's own skipping of the negative prompt. For `quality`.

fewer:part=0.7    ngms:sigma=3    ngms:sigma=3,all_steps=true
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.fields import check, setting
from ..core.rows import RowPlan, without_guidance
from ..engine.contract import Moment, Runner
from .variant_words import read_settings


class _OfRows(Runner):
    """At work on no layer."""

    window = (0.0, 1.0)


@dataclass(frozen=True)
class Fewer:
    """part: the part of the steps that is run; above 0, up to 1. The schedule is one of that many steps."""

    part: float = setting(0.7, "number", "Part", "of the steps", 0, 1, above_low=True)

    def __post_init__(self) -> None:
        check(self)

    def steps(self, steps: int) -> int:
        """How many are run in place of ``steps``, at least one."""
        return max(1, round(self.part * steps))

    def runner(self) -> Runner:
        return _OfRows(self)


@dataclass(frozen=True)
class Ngms:
    """Negative guidance minimum sigma: below ``sigma`` (0 or more) every second step goes without the negative prompt, or all do."""

    sigma: float = setting(3.0, "number", "Sigma", "higher: skips earlier", 0)
    all_steps: bool = setting(False, "flag", "All steps", "on: every step below sigma")

    def __post_init__(self) -> None:
        check(self)

    def runner(self) -> Runner:
        return NgmsRunner(self)


class NgmsRunner(_OfRows):
    """The WebUI's rule, carried out as everything else that leaves rows out."""

    def drop_rows(self, moment: Moment) -> RowPlan | None:
        sigma = moment.noise().sigma
        if sigma is None or sigma >= self.config.sigma or not (self.config.all_steps or moment.step.index % 2):
            return None
        return without_guidance(moment.rows)[0]


ALTERNATIVES = {"fewer": Fewer, "ngms": Ngms}


def parse_alternative(text: str) -> Any:
    """The settings that ``text`` names, None when it names none of these. CommandError, SettingError."""
    name, _, settings = text.partition(":")
    return ALTERNATIVES[name](**read_settings(text, settings, ALTERNATIVES[name])) if name in ALTERNATIVES else None
