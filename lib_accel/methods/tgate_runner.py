"""T-GATE at work on one U-Net: where a step lies to the gate, what is kept in it, and what is served."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import torch

from ..backends.known import SERVED
from ..core.reasons import Reason
from ..core.rows import Row, RowPlan, guidance_kept, without_guidance
from ..core.schedule import Step, first_step, waiting_for_prompts
from ..core.sites import Site
from ..engine.contract import LayerAtWork, Moment, Runner, UNetCall
from .layer_cache import LayerCache

if TYPE_CHECKING:
    from .tgate import TGate

NO_GATE = Reason.of("no_gate", "no step came after the gate")
BEFORE, AT_GATE, AFTER = "before", "at the gate", "after"


def self_attention_action(index: int, where: str, sp_interval: int, fi_interval: int, warm_up: int) -> str:
    """``compute`` | ``cache`` | ``reuse`` for self-attention in step ``index``, which lies `BEFORE`, `AT_GATE` or `AFTER` (1.0.0)."""
    if where == AT_GATE:
        return "cache"
    if where == AFTER:
        return "reuse" if index % fi_interval else "cache"
    if index < warm_up:
        return "compute"
    return "reuse" if index > warm_up and index % sp_interval else "cache"


def cross_attention_action(where: str) -> str:
    """``compute`` | ``cache`` | ``reuse`` for cross-attention."""
    return {BEFORE: "compute", AT_GATE: "cache", AFTER: "reuse"}[where]


class TGateRunner(Runner):
    """T-GATE at work."""

    observes = True
    ability = SERVED
    window = (0.0, 1.0)

    def __init__(self, config: TGate) -> None:
        super().__init__(config)
        served_to_uncond = config.drop_guidance and config.after_gate == "uncond"
        self._caches = LayerCache(config.cache == "mean", served_to_uncond, config.drop_guidance, config.offload)
        self._kept_at: int | None = None
        self._where = BEFORE
        self._index = 0
        self._passed = self._ends_at_gate = False
        # The step of the pass that kept first, also where that was let go.
        self._first_kept: int | None = None

    def reset(self) -> None:
        self.end_pass()
        self._kept_at = None

    def end_pass(self) -> None:
        self.account.keeps(self._caches.nbytes)
        self._caches.clear()

    def begin_step(self, moment: Moment) -> None:
        self.account.keeps(self._caches.nbytes)
        s = self.config
        if moment.step.new_pass:
            self._first_kept = None
        self._index, self._where = moment.step.index, self._place(moment)
        if self._where == AT_GATE and self._first_kept is None:
            self._first_kept = self._index
        total = moment.step.total
        self._ends_at_gate = total is not None and self._index == total - 1 and (s.gate_step == total if s.gate_step else s.gate >= 1)
        self._passed |= self._first_kept is not None and self._index > self._first_kept
        self.account.is_idle(None if self._passed else NO_GATE)

    def needs_full(self, moment: Moment) -> str | None:
        return Reason.of("at_gate", "T-GATE fills its cache in this step") if self._where == AT_GATE else None

    def drop_rows(self, moment: Moment) -> RowPlan | None:
        if self._where != AFTER or not self.config.drop_guidance or moment.dropped:
            return None
        plan, reason = without_guidance(moment.rows, self.config.after_gate)
        if reason:
            self.account.note(guidance_kept(reason))
        return plan

    def wants(self, site: Site, finest: int) -> frozenset[str]:
        parts = {"attn2"} if self._where != BEFORE else set()
        if self._serves_self_attention():
            parts.add("attn1")
        return frozenset(parts)

    def serve(self, call: UNetCall, site: Site, layer: LayerAtWork) -> torch.Tensor | None:
        if self._action(layer) != "reuse":
            return None
        served = self._caches.serve(self._key(call, site, layer), call.rows, layer.tokens)
        if served is not None:
            self.account.acted("cross-attention served" if layer.part == "attn2" else "self-attention served", site.name)
        return served

    def observe(self, call: UNetCall, site: Site, layer: LayerAtWork, out: torch.Tensor) -> None:
        """Keep what is served later; also after the gate, where nothing that fits was kept (a block that had not run, a new size)."""
        action, key = self._action(layer), self._key(call, site, layer)
        if action == "cache":
            at_gate = self._where == AT_GATE
            rows = [row for row in call.rows if not at_gate or self._is_served_later(row)]
            self._caches.keep(key, call.rows, out, rows, combine=at_gate)
        elif action == "reuse":
            self._caches.keep(key, call.rows, out, [row for row in call.rows if self._caches.lacks(key, row, layer.tokens)])

    def _place(self, moment: Moment) -> str:
        """Where ``moment`` lies. The step before the gate keeps; if it was not seen, the first one after the gate does in its place."""
        step = moment.step
        before, last = self._compare(step, moment.settled)
        if before and not last:
            return BEFORE
        if self._kept_at is None or step.index <= self._kept_at:
            self._kept_at = step.index
            return AT_GATE
        return AFTER

    def _compare(self, step: Step, settled: int) -> tuple[bool, bool]:
        """Whether ``step`` comes before the gate, and whether it is known to be the last that does.

        settled: the step from which on the prompts stay as they are. What is kept is kept from there on.
        """
        settings = self.config
        if step.total is None and settings.gate_step is None:
            return step.fraction < settings.gate or settings.gate >= 1, False
        gate = settings.gate_step if settings.gate_step is not None else max(1, first_step(settings.gate, step.total))
        never = step.total is not None and gate >= step.total
        if settled >= gate and not never:
            gate = settled + 1
            never = step.total is not None and gate >= step.total
            self.account.note(waiting_for_prompts("the gate", settled, step.total))
        if never:
            return True, False
        return step.index < gate, step.index == gate - 1

    def _serves_self_attention(self) -> bool:
        """Whether self-attention is kept or served in this step: not where every step would compute it anyway."""
        interval = self.config.sp_interval if self._where == BEFORE else self.config.fi_interval
        return interval > 1 and self._self_action() != "compute"

    def _self_action(self) -> str:
        s = self.config
        if self._ends_at_gate:
            # As published: the step before a gate computes, also where nothing comes behind it.
            return "compute"
        return self_attention_action(self._index, self._where, s.sp_interval, s.fi_interval, s.warm_up)

    def _action(self, layer: LayerAtWork) -> str:
        if layer.part == "attn1":
            return self._self_action()
        # Without a text it is no cross-attention.
        return cross_attention_action(self._where) if layer.has_context else "compute"

    def _is_served_later(self, row: Row) -> bool:
        """Unconditional rows are dropped after the gate, unless they are the ones that run or are averaged in."""
        s = self.config
        return row.role != "uncond" or not s.drop_guidance or s.cache == "mean" or s.after_gate == "uncond"

    def _key(self, call: UNetCall, site: Site, layer: LayerAtWork) -> Hashable:
        return (site.name, layer.part, call.grids[site], layer.tokens.dtype)
