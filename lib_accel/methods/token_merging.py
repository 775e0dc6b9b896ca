"""Token merging for Stable Diffusion: similar tokens are averaged, the layer runs on fewer, its output is copied back.

Source: Token Merging for Fast Stable Diffusion (Bolya and Hoffman, arXiv 2303.17604).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log2
from typing import Any

import torch

from ..core.fields import check, setting
from ..core.method import TOKENS, Declaration, HiresSetting, Kind, Method, Schedule
from ..core.reasons import Reason
from ..core.schedule import Window
from ..core.sites import Site
from ..core.work import BlockWork
from ..engine.contract import Runner, UNetCall
from ..ops.merging import MergePlan
from .planning import Planner, cut_for, limit_of

MERGE_HINT = "higher: faster, less detail"
# From how many tokens on merging pays, and the settings that are rarely changed; agent attention's too.
LEAST = {"cpu": 1024, "gpu": 6400, "gpu unfused": 2304}
RARE = ("max_downsample", "use_rand", "merge_attn", "merge_crossattn", "merge_mlp", "radius", "plan", "plan_every")
# Settings that agent attention has, too: described once.
_SHARED = {
    "max_downsample": lambda: setting(1, "choice", "Deepest level", "higher: also coarser levels, less detail", choices=(1, 2, 4, 8)),
    "use_rand": lambda: setting(True, "flag", "Random destinations", "on: the grid is less visible; the same in every run"),
    "merge_attn": lambda: setting(True, "flag", "Merge self-attention", "on: saves the most time"),
    "merge_crossattn": lambda: setting(False, "flag", "Merge cross-attention", "on: saves little; details of the prompt suffer"),
    "merge_mlp": lambda: setting(False, "flag", "Merge feed-forward", "on: saves some time; detail suffers"),
    "matching": lambda: setting(
        "global", "choice", "Matching", "local: only with neighbours; faster, closer to the full picture", choices=("global", "local")
    ),
    "radius": lambda: setting(1, "integer", "Matching radius", "for local: how many cells away; higher: slower", 1, 16),
    "plan": lambda: setting("level", "choice", "Match", "level: once for all blocks of a level", choices=("level", "block")),
    "plan_every": lambda: setting(1, "integer", "Steps per matching", "2: match in every second step; higher: faster, less exact", 1, 1000),
}


def shared(name: str) -> Any:
    """A dataclass field with the description of the setting ``name``."""
    return _SHARED[name]()


@dataclass(frozen=True)
class TokenMerging(Method):
    """Settings of token merging. SettingError when one is out of range.

    ratio: fraction of tokens removed, 0 (off) to 1; clipped to what is not a destination, 1 - 1/(sx*sy) of a grid that divides.
    sx, sy: width and height in tokens of the cells that keep one destination each, from 1.
    max_downsample: 1, 2, 4 or 8; acts on levels up to this factor below the finest level of the U-Net that has attention.
    use_rand: a random destination in every cell, the same for every row, a function of step and level alone; top left without.
    merge_attn, merge_crossattn, merge_mlp: which branches of a block run on merged tokens. The last two change the picture far more.
    matching: ``global`` compares a token with the destinations of all cells, as published; ``local`` with those at most ``radius``
    cells away (1 to 16): less work, and what is merged lies together.
    plan: ``level`` matches once per level and step, from its first block; ``block`` in every block, as published.
    plan_every: steps that a plan is kept for, from 1.
    window: (start, end) in fractions of the pass.
    """

    declaration = Declaration(
        acts_on=TOKENS,
        kinds=(Kind("merging", "merged", "#4f9d69"),),
        group="merging",
        saves=1.37,
        needs={"radius": ("matching", ("local",))},
        title="Merging",
        hint="on: similar tokens share their attention",
        rare=RARE,
        hires=HiresSetting(
            "merging_ratio",
            setting(0.5, "number", "Merging ratio", "higher: faster, less detail; 0: none", 0, 1),
            lambda ratio: {"on": ratio > 0, "ratio": ratio, "start": 0.0, "end": 1.0},
        ),
        least=LEAST,
        least_hint="tokens are merged",
    )

    ratio: float = setting(0.5, "number", "Merging ratio", MERGE_HINT, 0, 1)
    sx: int = setting(2, "integer", "Cell width", "larger: fewer tokens must stay", 1, 64)
    sy: int = setting(2, "integer", "Cell height", "larger: fewer tokens must stay", 1, 64)
    max_downsample: int = shared("max_downsample")
    use_rand: bool = shared("use_rand")
    merge_attn: bool = shared("merge_attn")
    merge_crossattn: bool = shared("merge_crossattn")
    merge_mlp: bool = shared("merge_mlp")
    matching: str = shared("matching")
    radius: int = shared("radius")
    plan: str = shared("plan")
    plan_every: int = shared("plan_every")
    window: Window = setting((0.0, 1.0), "window", "Merging window", "part of the pass in which tokens are merged")

    def __post_init__(self) -> None:
        check(self)

    def runner(self) -> MergingRunner:
        return MergingRunner(self)

    def schedule(self, steps: int, *given: Any, **named: Any) -> Schedule:
        return replace(super().schedule(steps, *given, **named), even=self.plan_every == 1)

    def limit(self) -> tuple[str, str] | None:
        return limit_of(self)

    @classmethod
    def example(cls) -> TokenMerging:
        return cls(max_downsample=8)

    def spare_block(self, work: BlockWork, kinds: tuple[str, ...]) -> None:
        spare_merged(self, work)


def merged_parts(config: object) -> frozenset[str]:
    """The parts of a block that ``config`` (merge_attn, merge_crossattn, merge_mlp) runs on merged tokens."""
    switches = {"attn1": config.merge_attn, "attn2": config.merge_crossattn, "ff": config.merge_mlp}
    return frozenset(part for part, on in switches.items() if on)


def spare_merged(config: Any, work: BlockWork) -> None:
    """Take from ``work`` what ``config`` (merging or agents) spares there."""
    if work.depth > log2(config.max_downsample):
        return
    h, w = work.grid
    cut = cut_for(h, w, config)
    work.tokens |= dict.fromkeys(merged_parts(config), h * w - cut.merged)
    forms_agents = cut.agents_gone is not None and config.merge_attn
    if forms_agents:
        work.agents = h * w - cut.agents_gone
    if cut.merged or (forms_agents and config.agents == "merge"):
        stay = (h // config.sy) * (w // config.sx)
        among = stay if config.matching == "global" else min(stay, (2 * config.radius + 1) ** 2)
        work.matching += (h * w - stay) * among * work.channels / config.plan_every
        work.shared |= config.plan == "level"


class MergingRunner(Runner):
    """Token merging at work. Agent attention builds on it."""

    needs_tokens = True

    def __init__(self, config: TokenMerging) -> None:
        super().__init__(config)
        self.reduces = merged_parts(config) if config.ratio > 0 else frozenset()
        self.planner = Planner(config)

    def wants(self, site: Site, finest: int) -> frozenset[str]:
        near = site.level - finest <= log2(self.config.max_downsample)
        return self.reduces | self.computes if near else frozenset()

    def reset(self) -> None:
        self.planner.reset()

    def block_tokens(self, call: UNetCall, site: Site, x: torch.Tensor) -> None:
        self.planner.prepare(call, site, x)

    def reduce(self, call: UNetCall, site: Site, part: str) -> MergePlan | None:
        plan = self.planner.plan_for(call, site)
        if plan is None or part not in self.reduces:
            return None
        if plan.merging is None:
            h, w = call.grids[site]
            self.account.stood_down(Reason.of("nothing_to_merge", "nothing to merge on a {h}x{w} grid", h=h, w=w), site.name)
            return None
        self.account.acted("merging", site.name)
        return plan.merging
