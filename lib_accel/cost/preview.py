"""A look ahead: which steps of a pass run whole, reduced or on one row, and about how much work that saves.

An estimate (see `estimate`); what was really done is the report's to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.schedule import first_step
from ..methods import AgentAttention, GuidanceSkip, TGate, TokenDownsampling, TokenMerging
from ..ops.levels import grid_at
from ..settings.job import Settings
from ..settings.passes import methods_for
from .estimate import SHAPES, decoding_work, row_work

LEAST = {AgentAttention: "least.agents", TokenMerging: "least.merging", TokenDownsampling: "least.downsampling"}


@dataclass(frozen=True)
class PassPreview:
    """steps: for each step the kinds at work (``agents``, ``merging``, ``downsampling``, ``gated``: cross-attention from a cache,
    ``unguided``, ``kept``: guided in a direction known from before), none where it runs whole. work, plain: multiply-adds of the pass,
    and of the same without Accel. idle: kinds that the size makes stand down. later: whether more steps may turn out unguided while the
    pass runs."""

    place: str
    width: int
    height: int
    steps: tuple[tuple[str, ...], ...]
    work: float
    plain: float
    idle: tuple[str, ...] = ()
    later: bool = False


def preview_pass(
    settings: Settings, place: str, shape: str, width: int, height: int, steps: int, scale: float | None = None
) -> PassPreview:
    """What ``settings`` would do in a pass of ``steps`` steps at ``width`` x ``height`` pixels. shape: the U-Net's, one of
    `estimate.SHAPES`. scale: the guidance scale."""
    chosen, _ = methods_for(settings, place, scale)
    methods = [m for m in chosen if type(m) in LEAST]
    rows = [m for m in chosen if type(m) not in LEAST]
    unet, latent = SHAPES[shape], (max(height // 8, 1), max(width // 8, 1))
    h, w = grid_at(*latent, min(unet.levels))
    least = {kind: settings[name] if settings["auto"] else 0 for kind, name in LEAST.items()}
    acting = [m for m in methods if h * w >= least[type(m)]]
    at_work = [[m for m in acting if _acts(m, step, steps)] for step in range(steps)]
    of_rows = [_without_rows(rows, step, steps, scale if settings["drop_at_one"] else None) for step in range(steps)]
    plain = 2 * row_work(unet, *latent)
    known: dict[Any, float] = {}
    work = 0.0
    for now, also in zip(at_work, of_rows):
        situation = (tuple(now), "gated" in also)
        if situation not in known:
            known[situation] = row_work(unet, *latent, now, least, cached_text="gated" in also)
        work += known[situation] * (1 if {"unguided", "kept"} & set(also) else 2)
    kinds = tuple(tuple(_kind(m) for m in now) + also for now, also in zip(at_work, of_rows))
    idle = tuple(dict.fromkeys(_kind(m) for m in methods if m not in acting))
    later = scale != 1 and any(isinstance(m, GuidanceSkip) and m.when != "after" for m in rows)
    return PassPreview(place, width, height, kinds, work, plain * steps, idle, later)


def saved(passes: list[PassPreview]) -> float:
    """The part of a whole picture's work (its passes, and decoding it) that is not done, 0 to 1."""
    decoding = decoding_work(max(passes[-1].height // 8, 1), max(passes[-1].width // 8, 1))
    return 1 - (sum(p.work for p in passes) + decoding) / (sum(p.plain for p in passes) + decoding)


def _without_rows(methods: list[Any], step: int, steps: int, scale: float | None) -> tuple[str, ...]:
    """What is known beforehand of the rows of ``step``: gated, unguided, kept."""
    kinds: dict[str, None] = {}
    for method in methods:
        if isinstance(method, TGate):
            gate = max(1, first_step(method.gate, steps))
            if gate <= step and gate < steps:
                kinds |= {"gated": None} | ({"unguided": None} if method.drop_guidance else {})
        elif scale == 1:
            kinds["unguided"] = None
        elif method.when == "after":
            guided = method.guided_steps(steps)
            if not guided[step] and "unguided" not in kinds:
                # Without a guided step before there is no direction to keep.
                kinds["kept" if method.reuse and guided[0] else "unguided"] = None
    return tuple(kinds)


def _acts(method: Any, step: int, steps: int) -> bool:
    start, end = method.window
    return first_step(start, steps) <= step and (step < first_step(end, steps) or end >= 1)


def _kind(method: Any) -> str:
    return {AgentAttention: "agents", TokenMerging: "merging", TokenDownsampling: "downsampling"}[type(method)]
