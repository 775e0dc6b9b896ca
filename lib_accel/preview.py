"""A look ahead: which steps of a pass run whole, merged or with agents, and how much self-attention that saves.

An estimate from token counts alone, for the finest level that has attention; what was really done is the report's to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .job_settings import Settings
from .methods import AgentAttention, TokenDownsampling, TokenMerging
from .ops.levels import grid_at
from .passes import methods_for
from .schedule import first_step

# Halvings of the latent before the finest level that has attention.
FINEST = {"sdxl": 1}
LEAST = {AgentAttention: "least.agents", TokenMerging: "least.merging", TokenDownsampling: "least.downsampling"}


@dataclass(frozen=True)
class PassPreview:
    """steps: for each step the kinds at work (``agents``, ``merging``, ``downsampling``), none where it runs whole.
    saved: fraction of the pass's self-attention work at the finest level that is not done, 0 to 1. idle: kinds that the size makes
    stand down."""

    place: str
    width: int
    height: int
    steps: tuple[tuple[str, ...], ...]
    saved: float
    idle: tuple[str, ...] = ()


def preview_pass(settings: Settings, place: str, family: str, width: int, height: int, steps: int) -> PassPreview:
    """What ``settings`` would do in a pass of ``steps`` steps at ``width`` x ``height`` pixels."""
    methods, _ = methods_for(settings, place)
    h, w = grid_at(height // 8, width // 8, FINEST.get(family, 0))
    least = {type(m): settings[LEAST[type(m)]] if settings["auto"] else 0 for m in methods}
    acting = [m for m in methods if h * w >= least[type(m)]]
    at_work = [[m for m in acting if _acts(m, step, steps)] for step in range(steps)]
    saved = sum(1 - _cost(now) for now in at_work) / max(steps, 1)
    kinds = tuple(tuple(_kind(m) for m in now) for now in at_work)
    idle = tuple(dict.fromkeys(_kind(m) for m in methods if m not in acting))
    return PassPreview(place, width, height, kinds, saved, idle)


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
