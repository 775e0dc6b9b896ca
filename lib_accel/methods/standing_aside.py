"""Doing nothing where something else is nearer to the full picture in the same time: ``only_where_better`` of several methods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..core.fields import setting
from ..core.reasons import Reason
from ..core.samplers import Sampler
from ..engine.contract import Moment


def only_where_better() -> Any:
    """The setting."""
    hint = "on: does nothing where forecasts alone or fewer steps are better"
    return setting(False, "flag", "Only where it beats fewer steps", hint)


def stands_aside(goes: Iterable[bool | None], sampler: Sampler) -> bool:
    """Whether a method does nothing with ``sampler``. goes: of each method beside it, whether both together are nearer than that one alone;
    None where it leaves the pass to others."""
    together = _together(goes)
    return sampler.adds_noise if together is None else not together


def why_aside(goes: Iterable[bool | None], moment: Moment) -> Reason | None:
    """Why a method does nothing in the pass of ``moment`` (a clause), or None. Where nobody tells the sampler it acts."""
    sampler = moment.sampler
    if sampler is None or not stands_aside(told := list(goes), sampler):
        return None
    if _together(told) is None:
        return Reason.of("adds_noise", "{sampler} adds noise, and then fewer steps are better", sampler=sampler.name)
    return Reason.of("forecast_instead", "with {sampler} Forecast decides which steps run", sampler=sampler.name)


def _together(goes: Iterable[bool | None]) -> bool | None:
    told = [answer for answer in goes if answer is not None]
    return all(told) if told else None
