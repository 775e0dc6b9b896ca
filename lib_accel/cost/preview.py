"""A look ahead: which steps of a pass run whole, reduced or on one row, and about how much work that saves.

An estimate (see `estimate`); what was really done is the report's to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.method import Kind
from ..methods.registry import METHODS, with_least
from ..ops.levels import grid_at
from ..settings.job import Settings
from ..settings.passes import methods_for
from .estimate import SHAPES, decoding_work, step_work

KINDS: dict[str, Kind] = {kind.name: kind for method in METHODS for kind in method.declaration.kinds}


@dataclass(frozen=True)
class PassPreview:
    """steps: for each step the names of the kinds at work (see `KINDS`), none where it runs whole. work, plain: multiply-adds of the pass,
    and of the same without Accel. idle: kinds that the size makes stand down. later: whether more may turn out to be at work while the pass
    runs: what methods say of it."""

    place: str
    width: int
    height: int
    steps: tuple[tuple[str, ...], ...]
    work: float
    plain: float
    idle: tuple[str, ...] = ()
    later: tuple[str, ...] = ()


def preview_pass(
    settings: Settings, place: str, shape: str, width: int, height: int, steps: int, scale: float | None = None, sampler: str = ""
) -> PassPreview:
    """What ``settings`` would do in a pass of ``steps`` steps at ``width`` x ``height`` pixels. shape: the U-Net's, one of
    `estimate.SHAPES`. scale: the guidance scale. sampler: its name."""
    chosen, _ = methods_for(settings, place, scale)
    unet, latent = SHAPES[shape], (max(height // 8, 1), max(width // 8, 1))
    h, w = grid_at(*latent, min(unet.levels))
    least = {method: settings[f"least.{group}"] if settings["auto"] else 0 for group, method in with_least().items()}
    acting = [method for method in chosen if h * w >= least.get(type(method), 0)]
    told = scale if settings["drop_at_one"] else None
    schedules = [method.schedule(steps, told, sampler) for method in acting]
    known: dict[Any, float] = {}
    kinds, work = [], 0.0
    for step in range(steps):
        now = tuple((method, schedule.kinds[step]) for method, schedule in zip(acting, schedules) if schedule.kinds[step])
        if now not in known:
            known[now] = step_work(unet, *latent, now, least)
        work += known[now]
        kinds.append(tuple(dict.fromkeys(kind for _, at_work in now for kind in at_work)))
    idle = (kind.name for method in chosen if method not in acting for kind in method.declaration.kinds)
    later = (method.declaration.later for method, schedule in zip(acting, schedules) if schedule.later)
    plain = steps * step_work(unet, *latent)
    return PassPreview(place, width, height, tuple(kinds), work, plain, tuple(dict.fromkeys(idle)), tuple(dict.fromkeys(later)))


def saved(passes: list[PassPreview]) -> float:
    """The part of a whole picture's work (its passes, and decoding it) that is not done, 0 to 1."""
    decoding = decoding_work(max(passes[-1].height // 8, 1), max(passes[-1].width // 8, 1))
    return 1 - (sum(p.work for p in passes) + decoding) / (sum(p.plain for p in passes) + decoding)
