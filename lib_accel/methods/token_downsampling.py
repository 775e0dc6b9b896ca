"""Token downsampling: every token still asks, but only every second (third, ...) row and column of the grid answers.

Source: ToDo: Token Downsampling for Efficient Generation of High-Resolution Images (Smith et al., arXiv 2402.13573).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..backends.known import KEYS
from ..core.fields import check, setting
from ..core.method import TOKENS, Declaration, HiresSetting, Kind, Method
from ..core.reasons import Reason
from ..core.schedule import Window
from ..core.sites import Site
from ..core.work import BlockWork
from ..engine.contract import LayerAtWork, Runner, UNetCall
from ..ops.downsampling import downsample_grid


@dataclass(frozen=True)
class TokenDownsampling(Method):
    """Settings of token downsampling. SettingError when one is out of range.

    No matching and no unmerging: queries stay whole, keys and values of self-attention come from a coarser grid, through the layer's
    own forward. It goes together with `TokenMerging`, which then merges the queries.

    factor: at the finest level that has attention, 1 (off) to 8; keys and values shrink by its square.
    deeper_factor: one level below that, 1 (off) to 8.
    window: (start, end) in fractions of the pass.
    """

    declaration = Declaration(
        acts_on=TOKENS,
        kinds=(Kind("downsampling", "downsampled", "#5b9bd5"),),
        group="downsampling",
        saves=1.36,
        title="Downsampling",
        hint="on: keys and values come from fewer tokens",
        hires=HiresSetting(
            "downsampling_factor",
            setting(1, "integer", "Downsampling factor", "higher: faster, less detail; 1: none", 1, 8),
            lambda factor: {"on": factor > 1, "factor": factor, "start": 0.0, "end": 1.0},
        ),
        least={"cpu": 1024, "gpu": 4096, "gpu unfused": 1024},
        least_hint="keys are downsampled",
    )

    factor: int = setting(2, "integer", "Downsampling factor", "higher: faster, less detail", 1, 8)
    deeper_factor: int = setting(1, "integer", "Deeper factor", "higher: a little faster, less structure", 1, 8)
    window: Window = setting((0.0, 1.0), "window", "Downsampling window", "part of the pass in which keys are downsampled")

    def __post_init__(self) -> None:
        check(self)

    def runner(self) -> DownsamplingRunner:
        return DownsamplingRunner(self)

    def factor_at(self, depth: int) -> int:
        """The factor ``depth`` levels below the finest that has attention."""
        return (self.factor, self.deeper_factor)[depth] if depth < 2 else 1

    @classmethod
    def example(cls) -> TokenDownsampling:
        return cls(deeper_factor=2)

    def spare_block(self, work: BlockWork, kinds: tuple[str, ...]) -> None:
        (h, w), factor = work.grid, self.factor_at(work.depth)
        work.keys = -(-h // factor) * -(-w // factor)


class DownsamplingRunner(Runner):
    """Token downsampling at work."""

    computes = frozenset({"attn1"})
    ability = KEYS

    def wants(self, site: Site, finest: int) -> frozenset[str]:
        return self.computes if self.config.factor_at(site.level - finest) > 1 else frozenset()

    def compute(self, call: UNetCall, site: Site, layer: LayerAtWork) -> torch.Tensor | None:
        if layer.part not in self.computes:
            return None
        h, w = call.grids[site]
        keys = downsample_grid(layer.tokens, h, w, self.config.factor_at(site.level - call.finest))
        if keys.shape[1] == layer.tokens.shape[1]:
            self.account.stood_down(Reason.of("nothing_to_leave_out", "nothing to leave out on a {h}x{w} grid", h=h, w=w), site.name)
            return None
        out = layer.own(layer.x, keys)
        self.account.acted("downsampling", site.name)
        return out
