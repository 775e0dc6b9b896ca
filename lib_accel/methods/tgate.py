"""T-GATE: from a gate on, cross-attention is served from a cache and guidance is dropped.

Source: Faster Diffusion Through Temporal Attention Decomposition (Liu et al., arXiv 2404.02747), its versions 0.1.2 and 1.0.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..core.fields import SettingError, check, setting
from ..core.method import ROWS, Declaration, HiresSetting, Kind, Method, Schedule
from ..core.samplers import Sampler
from ..core.schedule import first_step
from ..core.work import BlockWork, StepWork
from .tgate_runner import TGateRunner


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
        hint="on: after the gate the negative prompt is skipped and cross-attention comes from a cache",
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
    cache: str = setting("cond", "choice", "Cache", "mean: as published; halves the effect of the prompt", choices=("cond", "mean"))
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

    def schedule(self, steps: int, scale: float | None = None, sampler: str | Sampler = "", run: Sequence[int] | None = None) -> Schedule:
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
