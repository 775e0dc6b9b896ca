"""T-GATE: from a gate on, cross-attention is served from a cache and guidance is dropped.

Source: Faster Diffusion Through Temporal Attention Decomposition (Liu et al., arXiv 2404.02747), its versions 0.1.2 and 1.0.0.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch

from ..backends.known import SERVED
from ..core.fields import SettingError, check, setting
from ..core.method import ROWS, Declaration, HiresSetting, Kind, Method, Schedule
from ..core.rows import GUIDANCE_KEPT, Row, RowPlan, without_guidance
from ..core.schedule import Step, first_step, waiting_for_prompts
from ..core.sites import Site
from ..core.work import BlockWork, StepWork
from ..engine.contract import LayerAtWork, Moment, Runner, UNetCall
from .layer_cache import LayerCache

BEFORE, AT_GATE, AFTER = "before", "at the gate", "after"


class DefaultGate(float):
    """A gate that nobody chose: it gives way to a gate step. Copies and pickles are still one."""


DEFAULT_GATE = DefaultGate(0.4)


@dataclass(frozen=True)
class TGate(Method):
    """Settings of T-GATE. SettingError when one is out of range, or when the gate is given twice.

    gate: fraction of the pass before the gate, above 0 and up to 1 (never). Lower: faster, more of the prompt's late detail is lost.
    gate_step: the same as the number of guided steps, from 1; the number of steps or more: never. In place of ``gate``.
    drop_guidance: after the gate one branch alone runs (most of the gain); otherwise cross-attention is cached and that is all.
    cache: what a conditional row is served: ``cond`` its own output, ``mean`` the published half-sum with its unconditional partner's.
    after_gate: the branch that runs then. ``uncond`` is published; with cross-attention served, only SDXL's pooled text tells them apart.
    sp_interval, fi_interval: self-attention is computed in every such step before and after the gate, served in between; from 1 (always).
    warm_up: first steps in which self-attention is always computed, from 0.
    offload: caches lie in main memory: slower, for GPUs that are short of it. About 22 MiB per picture at 512x512 for SD1.5 in half
    precision, 200 MiB at 1024x1024 for SDXL.
    """

    declaration = Declaration(
        acts_on=ROWS,
        kinds=(
            Kind("gated", "cross-attention cached", "#8a4f9d", line=True),
            Kind("unguided", "no negative prompt", "#c0587e", line=True),
        ),
        group="tgate",
        saves=1.42,
        title="T-GATE",
        hint="on: after the gate no negative prompt, and cross-attention from a cache",
        settings=("gate", "drop_guidance", "cache", "after_gate"),
        rare=("cache", "after_gate"),
        hires=HiresSetting(
            "gate",
            setting(1.0, "number", "Gate", "T-GATE's; lower: faster, less of the prompt's detail; 1: none", 0.01, 1),
            lambda gate: {"on": gate < 1, "gate": gate},
        ),
        known_rows=True,
        check_steps=(2, 3),
    )

    gate: float | None = setting(
        DEFAULT_GATE, "number", "Gate", "lower: faster, less of the prompt's detail", 0, 1, above_low=True, optional=True
    )
    gate_step: int | None = setting(None, "integer", "Gate step", "guided steps, in place of the gate", 1, optional=True)
    drop_guidance: bool = setting(True, "flag", "Drop guidance", "on: nearly twice as fast after the gate, weaker contrast")
    cache: str = setting("cond", "choice", "Cache", "mean: as published, half the prompt's pull", choices=("cond", "mean"))
    after_gate: str = setting("cond", "choice", "After the gate", "uncond: as published", choices=("cond", "uncond"))
    sp_interval: int = setting(1, "integer", "Self-attention interval before", "higher: faster, coarser", 1, 1000)
    fi_interval: int = setting(1, "integer", "Self-attention interval after", "higher: faster, less detail", 1, 1000)
    warm_up: int = setting(0, "integer", "Warm-up", "first steps with all self-attention", 0, 1000)
    offload: bool = setting(False, "flag", "Caches in main memory", "on: slower, less GPU memory")

    def __post_init__(self) -> None:
        if self.gate_step is not None:
            if self.gate is not None and not isinstance(self.gate, DefaultGate):
                raise SettingError(f"TGate.gate is {self.gate!r} and TGate.gate_step is {self.gate_step!r}; give one of them.")
            object.__setattr__(self, "gate", None)
        elif self.gate is None:
            object.__setattr__(self, "gate", DEFAULT_GATE)
        gate = self.gate
        check(self)
        if isinstance(gate, DefaultGate):
            object.__setattr__(self, "gate", gate)

    def runner(self) -> TGateRunner:
        return TGateRunner(self)

    def gate_of(self, steps: int | None) -> int | None:
        """The first step behind the gate in a pass of ``steps`` (None: unknown); None: there is none, or nobody knows it."""
        if self.gate_step is None and (steps is None or self.gate >= 1):
            return None
        gate = self.gate_step if self.gate_step is not None else max(1, first_step(self.gate, steps))
        return None if steps is not None and gate >= steps else gate

    def schedule(self, steps: int, scale: float | None = None, sampler: str = "", run: Sequence[int] | None = None) -> Schedule:
        gate = self.gate_of(steps)
        told = list(range(steps) if run is None else run)
        if gate is None:
            return Schedule(((),) * len(told), even=self.sp_interval == 1)
        behind = ("gated", "unguided") if self.drop_guidance else ("gated",)
        kinds = tuple(behind if step >= gate else () for step in told)
        keeps = tuple(step == gate - 1 for step in told)
        return Schedule(kinds, keeps, self.sp_interval == self.fi_interval == 1, frozenset({gate - 1, gate}))

    def spare_step(self, work: StepWork, kinds: tuple[str, ...]) -> None:
        if "unguided" in kinds:
            work.rows = min(work.rows, 1)

    def spare_block(self, work: BlockWork, kinds: tuple[str, ...]) -> None:
        if "gated" in kinds:
            work.tokens["attn2"] = 0

    def without_fixed_steps(self) -> None:
        """No step is known to be the gate's."""

    def sparing_memory(self) -> TGate:
        return replace(self, offload=True)

    @classmethod
    def example(cls) -> TGate:
        return cls(gate_step=1)


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

    def reset(self) -> None:
        self.end_pass()
        self._kept_at = None

    def end_pass(self) -> None:
        self.account.keeps(self._caches.nbytes)
        self._caches.clear()

    def begin_step(self, moment: Moment) -> None:
        self.account.keeps(self._caches.nbytes)
        s = self.config
        self._index, self._where = moment.step.index, self._place(moment)
        total = moment.step.total
        self._ends_at_gate = total is not None and self._index == total - 1 and (s.gate_step == total if s.gate_step else s.gate >= 1)
        self._passed |= self._where == AFTER
        self.account.is_idle(None if self._passed else "no step came after the gate")

    def needs_full(self, moment: Moment) -> str | None:
        return "T-GATE keeps cross-attention in this step" if self._where == AT_GATE else None

    def drop_rows(self, moment: Moment) -> RowPlan | None:
        if self._where != AFTER or not self.config.drop_guidance or moment.dropped:
            return None
        plan, reason = without_guidance(moment.rows, self.config.after_gate)
        if reason:
            self.account.note(GUIDANCE_KEPT + reason)
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
