"""Merge plans shared by a level: matched once from its first block's raw tokens, kept per row, reused for a while."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..core.reasons import Reason
from ..core.rows import RowStore
from ..core.sites import Site
from ..engine.contract import UNetCall
from ..ops.agents import agents_pay
from ..ops.downsampling import GridPool
from ..ops.local_matching import KeptTensors
from ..ops.matching import match_tokens, random_offsets
from ..ops.merging import MergePlan

WHY_NO_AGENTS = "no agents: {agents} would not be fewer than half of {tokens} tokens"


@dataclass(frozen=True)
class Cut:
    """How many of a grid's tokens go. merged: by merging. agents_gone: to form agents, None when agents would not pay."""

    tokens: int
    merged: int
    agents_gone: int | None
    why_no_agents: str | None = None

    @property
    def nothing(self) -> bool:
        return self.merged == 0 and self.agents_gone is None


@dataclass(frozen=True)
class TokenPlan:
    """merging: how tokens are merged, None when none are. agents: how agent tokens are formed, None when there are none."""

    cut: Cut
    merging: MergePlan | None = None
    agents: MergePlan | GridPool | None = None


def limit_of(settings: Any) -> tuple[str, str] | None:
    """See `Method.limit`: one token of every cell stays."""
    most = 1 - 1 / (settings.sx * settings.sy)
    return None if settings.ratio <= most else ("the cell size limits the merging ratio to", f"{most:.2g}")


def cut_for(h: int, w: int, settings: Any) -> Cut:
    """The cut of an ``h`` x ``w`` grid by ``settings`` (ratio, sx, sy, and agent_ratio where agents are wanted).

    Ratios beyond what the cells leave over are clipped: at most all tokens that are not destinations go (ALGORITHMS 2.2, 3.2).
    """
    tokens = h * w
    destinations = (h // settings.sy) * (w // settings.sx)
    sources = tokens - destinations if destinations else 0
    merged = min(int(tokens * settings.ratio), sources)
    agent_ratio = getattr(settings, "agent_ratio", None)
    if agent_ratio is None:
        return Cut(tokens, merged, None)
    gone = min(int(tokens * agent_ratio), sources)
    if settings.agents == "pool":
        gone = tokens - -(-h // settings.sy) * -(-w // settings.sx)
    if agents_pay(tokens - gone, tokens - merged):
        return Cut(tokens, merged, gone)
    return Cut(tokens, merged, None, Reason.of("agents_do_not_pay", WHY_NO_AGENTS, agents=tokens - gone, tokens=tokens - merged))


class Planner:
    """Makes and keeps the plans of one method.

    settings: a config with ratio, sx, sy, use_rand, matching, radius, plan (``level`` | ``block``), plan_every; and agent_ratio and
    agents when it forms agents.
    """

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self._kept = RowStore()
        self._made_at: dict[Any, int] = {}
        self._near = KeptTensors()

    def reset(self) -> None:
        self._kept.clear()
        self._made_at.clear()
        self._near.clear()

    def plan_for(self, call: UNetCall, site: Site) -> TokenPlan | None:
        """The plan made for ``site`` in this call, if any."""
        return call.shared.get(self._key(call, site))

    def prepare(self, call: UNetCall, site: Site, x: torch.Tensor) -> None:
        """See to it that ``site`` has a plan: the level's, one kept from an earlier step, or a new one from ``x`` [B, N, C]."""
        key = self._key(call, site)
        if key in call.shared and self.settings.plan == "level":
            return
        h, w = call.grids[site]
        cut = cut_for(h, w, self.settings)
        if cut.nothing:
            call.shared[key] = TokenPlan(cut)
            return
        pool = None
        if cut.agents_gone is not None and self.settings.agents == "pool":
            pool = GridPool(h, w, self.settings.sx, self.settings.sy)
            cuts = [cut.merged] if cut.merged else []
        else:
            cuts = [gone for gone in (cut.merged or None, cut.agents_gone) if gone is not None]
        slots = self._slots(call, key, site, x, cuts) if cuts else None
        call.shared[key] = TokenPlan(
            cut,
            MergePlan(slots[:, 0], cut.tokens - cut.merged) if cut.merged else None,
            pool or (MergePlan(slots[:, -1], cut.tokens - cut.agents_gone) if cut.agents_gone is not None else None),
        )

    def _key(self, call: UNetCall, site: Site) -> Any:
        place = site.level if self.settings.plan == "level" else site.name
        return (id(self), place, call.grids.get(site))

    def _slots(self, call: UNetCall, key: Any, site: Site, x: torch.Tensor, cuts: list[int]) -> torch.Tensor:
        """[B, len(cuts), N] position -> slot for each number of tokens that go; kept from an earlier step or matched now."""
        slots = self._earlier(call, key)
        if slots is None:
            slots = self._match(call, site, x, cuts)
            self._keep(call, key, slots)
        return slots

    def _match(self, call: UNetCall, site: Site, x: torch.Tensor, cuts: list[int]) -> torch.Tensor:
        s, (h, w) = self.settings, call.grids[site]
        offsets = random_offsets(h, w, s.sx, s.sy, call.step.index, site.level) if s.use_rand else None
        match = match_tokens(x, h, w, s.sx, s.sy, offsets, s.radius if s.matching == "local" else None, self._near)
        return torch.stack([match.slots(gone) for gone in cuts], 1)

    def _earlier(self, call: UNetCall, key: Any) -> torch.Tensor | None:
        """The slots kept for these rows, each row's young enough; None when one is missing, or comes again at its step."""
        made = [self._made_at.get((key, row.key)) for row in call.rows]
        if any(at is None or not 0 < call.step.index - at < self.settings.plan_every for at in made):
            return None
        return self._kept.get(key, call.rows)

    def _keep(self, call: UNetCall, key: Any, slots: torch.Tensor) -> None:
        if self.settings.plan_every > 1 and not call.repeats:
            self._kept.put(key, call.rows, slots)
            self._made_at.update({(key, row.key): call.step.index for row in call.rows})
