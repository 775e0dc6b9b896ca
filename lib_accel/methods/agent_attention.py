"""Agent attention for Stable Diffusion: token merging, and self-attention through a few agent tokens.

Source: Agent Attention: On the Integration of Softmax and Linear Attention (Han et al., arXiv 2312.08874), its AgentSD.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..backends.known import PLAIN
from ..core.fields import check, setting
from ..core.method import TOKENS, WHOLE_PASS, Declaration, HiresSetting, Kind, Method, Schedule
from ..core.reasons import Reason
from ..core.schedule import Window
from ..core.sites import Site
from ..core.work import BlockWork
from ..engine.contract import LayerAtWork, UNetCall
from ..ops.agents import agent_attention
from .planning import limit_of
from .token_merging import LEAST, MERGE_HINT, RARE, MergingRunner, shared, spare_merged


@dataclass(frozen=True)
class AgentAttention(Method):
    """Settings of agent attention. SettingError when one is out of range.

    Tokens are merged as by `TokenMerging` (see there for ratio, sx, sy, max_downsample, use_rand, merge_*, matching, radius, plan,
    plan_every).
    Agents are the tokens that a larger cut, agent_ratio, would leave. They are used where twice their number is below the number of
    merged tokens; otherwise the layer's own attention runs on the merged tokens and the report says so (with sx = sy = 2, ratio 0.5
    and agent_ratio 0.8, the published defaults, that is on every grid whose sides are even).

    agents: ``merge`` forms them as published, by the larger cut; ``pool`` takes the mean of every cell of sx x sy tokens (Agent
    Attention's own way in its vision models), whatever agent_ratio, and needs no matching when ratio is 0.
    ratio: fraction of tokens merged away, 0 (none: agents alone) to 1.
    agent_ratio: fraction removed to form the agents, 0 (no agents) to 1; clipped like ratio, so 0.95 with 4x4 cells means 1/16 remain.
    k_scale2: exponent of the softmax scale in the second stage, -10 to 10; 0 is unscaled, 1 ordinary.
    k_shortcut: weight of the values added to the output, 0 or more.
    attn_precision: None (the model's dtype, unless the layer or the host up-casts attention) or ``fp32`` for both stages; for SD2.1 in half
    precision.
    window: (start, end) in fractions of the pass. Published: the first 40 %.
    """

    declaration = Declaration(
        acts_on=TOKENS,
        kinds=(Kind("agents", "agents", "#d98b3a"),),
        group="agents",
        saves=1.15,
        needs={"radius": ("matching", ("local",))},
        title="Agents",
        hint="on: self-attention goes through a few agent tokens",
        rare=(*RARE, "agents", "k_scale2", "k_shortcut", "attn_precision"),
        # Agents merge tokens themselves and replace self-attention.
        displaces=True,
        hires=HiresSetting(
            "agents", setting(False, "flag", "Use agents", "on: faster, may move what the first pass laid out"), lambda on: {"on": on}
        ),
        least=LEAST,
        least_hint="agents are used",
        word="agent",
    )

    ratio: float = setting(0.4, "number", "Merging ratio", MERGE_HINT, 0, 1)
    agent_ratio: float = setting(0.95, "number", "Agent ratio", "higher: fewer agents, faster, coarser layout", 0, 1)
    sx: int = setting(4, "integer", "Cell width", "larger: fewer agents", 1, 64)
    sy: int = setting(4, "integer", "Cell height", "larger: fewer agents", 1, 64)
    max_downsample: int = shared("max_downsample")
    use_rand: bool = shared("use_rand")
    merge_attn: bool = shared("merge_attn")
    merge_crossattn: bool = shared("merge_crossattn")
    merge_mlp: bool = shared("merge_mlp")
    agents: str = setting("merge", "choice", "Formed by", "pool: cheaper, evenly spread", choices=("merge", "pool"))
    k_scale2: float = setting(0.3, "number", "Second scale exponent", "lower: a token chooses among the agents more sharply", -10, 10)
    k_shortcut: float = setting(0.075, "number", "Value shortcut", "higher: more of each token's own detail", 0)
    attn_precision: str | None = setting(None, "choice", "Agent precision", "fp32: slower, for SD2.1", choices=(None, "fp32"))
    matching: str = shared("matching")
    radius: int = shared("radius")
    plan: str = shared("plan")
    plan_every: int = shared("plan_every")
    window: Window = setting((0.0, 0.4), "window", "Agent window", "part of the pass in which agents are used")

    def __post_init__(self) -> None:
        check(self)

    def runner(self) -> AgentRunner:
        return AgentRunner(self)

    def schedule(self, steps: int, *given: Any, **named: Any) -> Schedule:
        return replace(super().schedule(steps, *given, **named), even=self.plan_every == 1)

    def limit(self) -> tuple[str, str] | None:
        return limit_of(self)

    @classmethod
    def example(cls) -> AgentAttention:
        return cls(max_downsample=8, window=WHOLE_PASS)

    def spare_block(self, work: BlockWork, kinds: tuple[str, ...]) -> None:
        spare_merged(self, work)


class AgentRunner(MergingRunner):
    """Agent attention at work."""

    def __init__(self, config: AgentAttention) -> None:
        super().__init__(config)
        if config.merge_attn and config.agent_ratio > 0:
            self.computes = frozenset({"attn1"})

    def compute(self, call: UNetCall, site: Site, layer: LayerAtWork) -> torch.Tensor | None:
        plan = self.planner.plan_for(call, site)
        if layer.part not in self.computes or plan is None:
            return None
        if plan.agents is None:
            if plan.cut.why_no_agents:
                self.account.stood_down(plan.cut.why_no_agents, site.name)
            return None
        obstacle = call.backend.obstacle(site, layer.part, PLAIN)
        if obstacle:
            self.account.stood_down(Reason.of("no_agents", "no agents: {why}", why=obstacle), site.name)
            return None
        out = self._attend(call, layer.module, layer.x, plan.agents.merge(layer.tokens))
        self.account.acted("agents", site.name)
        return out

    def _attend(self, call: UNetCall, attn: torch.nn.Module, x: torch.Tensor, agents: torch.Tensor) -> torch.Tensor:
        """[B, M, C] -> [B, M, C] through ``agents`` [B, n, C], with the layer's own projections, called as modules."""
        backend, settings = call.backend, self.config
        for_keys, for_values = call.traits.kv_inputs(attn, x)
        q, k, v, a = (
            backend.split_heads(attn, projected)
            for projected in (attn.to_q(x), attn.to_k(for_keys), attn.to_v(for_values), attn.to_q(agents))
        )
        fp32 = settings.attn_precision == "fp32" or call.traits.upcast(attn) or backend.upcasts(attn)
        scale = backend.scale_of(attn, q.shape[-1])
        out = agent_attention(q, k, v, a, scale, settings.k_scale2, settings.k_shortcut, fp32)
        return backend.project_out(attn, out)
