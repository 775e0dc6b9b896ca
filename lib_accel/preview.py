"""A look ahead: which steps of a pass run whole, merged, with agents or unguided, and how much self-attention that saves.

An estimate from token counts alone, for the finest level that has attention; what was really done is the report's to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .job_settings import Settings
from .methods import AgentAttention, GuidanceSkip, TGate, TokenDownsampling, TokenMerging
from .ops.levels import grid_at
from .passes import methods_for
from .schedule import first_step

# Halvings of the latent before the finest level that has attention.
FINEST = {"sdxl": 1}
LEAST = {AgentAttention: "least.agents", TokenMerging: "least.merging", TokenDownsampling: "least.downsampling"}


@dataclass(frozen=True)
class PassPreview:
    """steps: for each step the kinds at work (``agents``, ``merging``, ``downsampling``, ``gated``: cross-attention from a cache,
    ``unguided``), none where it runs whole. saved: fraction of the pass's self-attention work at the finest level that is not done, 0 to
    1. idle: kinds that the size makes stand down. later: whether more steps may turn out unguided while the pass runs."""

    place: str
    width: int
    height: int
    steps: tuple[tuple[str, ...], ...]
    saved: float
    idle: tuple[str, ...] = ()
    later: bool = False


def preview_pass(
    settings: Settings, place: str, family: str, width: int, height: int, steps: int, scale: float | None = None
) -> PassPreview:
    """What ``settings`` would do in a pass of ``steps`` steps at ``width`` x ``height`` pixels. scale: the guidance scale."""
    chosen, _ = methods_for(settings, place, scale)
    methods = [m for m in chosen if type(m) in LEAST]
    rows = [m for m in chosen if type(m) not in LEAST]
    h, w = grid_at(height // 8, width // 8, FINEST.get(family, 0))
    least = {type(m): settings[LEAST[type(m)]] if settings["auto"] else 0 for m in methods}
    acting = [m for m in methods if h * w >= least[type(m)]]
    at_work = [[m for m in acting if _acts(m, step, steps)] for step in range(steps)]
    of_rows = [_without_rows(rows, step, steps, scale if settings["drop_at_one"] else None) for step in range(steps)]
    costs = [_cost(now) * (0.5 if "unguided" in also else 1) for now, also in zip(at_work, of_rows)]
    kinds = tuple(tuple(_kind(m) for m in now) + also for now, also in zip(at_work, of_rows))
    idle = tuple(dict.fromkeys(_kind(m) for m in methods if m not in acting))
    later = scale != 1 and any(isinstance(m, GuidanceSkip) and m.when != "after" for m in rows)
    return PassPreview(place, width, height, kinds, sum(1 - cost for cost in costs) / max(steps, 1), idle, later)


def _without_rows(methods: list[Any], step: int, steps: int, scale: float | None) -> tuple[str, ...]:
    """What is known beforehand of the rows of ``step``: gated, unguided."""
    kinds: dict[str, None] = {}
    for method in methods:
        if isinstance(method, TGate):
            gate = max(1, first_step(method.gate, steps))
            if gate <= step and gate < steps:
                kinds |= {"gated": None} | ({"unguided": None} if method.drop_guidance else {})
        elif scale == 1:
            kinds["unguided"] = None
        elif method.when == "after" and method.after < 1:
            first = first_step(method.after, steps)
            refreshed = method.every and (step - first + 1) % method.every == 0
            if step >= first and not refreshed:
                kinds["unguided"] = None
    return tuple(kinds)


def _acts(method: Any, step: int, steps: int) -> bool:
    start, end = method.window
    return first_step(start, steps) <= step and (step < first_step(end, steps) or end >= 1)


def _kind(method: Any) -> str:
    return {AgentAttention: "agents", TokenMerging: "merging", TokenDownsampling: "downsampling"}[type(method)]


def _cost(methods: list[Any]) -> float:
    """Score computations left of a layer's N x N, as a fraction."""
    queries = keys = 1.0
    agents = None
    for method in methods:
        if isinstance(method, TokenDownsampling):
            keys = min(keys, method.factor**-2)
            continue
        if method.merge_attn:
            queries = keys = min(keys, 1 - min(method.ratio, 1 - 1 / (method.sx * method.sy)))
        if isinstance(method, AgentAttention) and method.agent_ratio > 0:
            agents = 1 / (method.sx * method.sy) if method.agents == "pool" else max(1 - method.agent_ratio, 1 / (method.sx * method.sy))
    if agents is not None and agents * 2 < queries:
        return 2 * agents * queries
    return queries * keys
