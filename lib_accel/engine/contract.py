"""What a method is to the accelerator: what it acts on, and its part in the three phases of a layer call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from ..backends import Backend
from ..core.noise import Noise
from ..core.report import MethodAccount
from ..core.rows import Layout, RowPlan
from ..core.schedule import Step, Window
from ..core.sites import Site


@dataclass
class UNetCall:
    """One armed call of the U-Net.

    rows: its layout. step: where it stands. pass_and_step: (number of the pass, step index), for counting.
    finest: the finest level of this U-Net that has attention. grids: real (h, w) in tokens, by site, as each spatial transformer sees it.
    shared: what methods keep for the length of this call.
    """

    backend: Backend
    traits: HostTraits
    step: Step
    rows: Layout
    pass_and_step: tuple[int, int]
    finest: int = 0
    grids: dict[Site, tuple[int, int]] = field(default_factory=dict)
    shared: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """Where a pass stands: one U-Net call that is about to run, or a whole step that a host asks about.

    rows: all of them, before any is dropped. pass_and_step: (number of the pass, step index). guidance: the guidance scale, None when
    nobody told it. predicts: ``epsilon`` | ``v`` | ``sample``. noise: asks for the noise level, for which a GPU may have to be waited for.
    sample: the latents [rows, channels, h, w]; None when a host asks. settled: the step from which on the prompts stay as they are.
    guided_because: why no row may be dropped now (a clause); None: they may. dropped: the host has dropped what it was told to.
    """

    step: Step
    rows: Layout
    pass_and_step: tuple[int, int]
    guidance: float | None
    predicts: str
    noise: Callable[[], Noise]
    sample: torch.Tensor | None = None
    settled: int = 0
    guided_because: str | None = None
    dropped: bool = False


class HostTraits:
    """What a host does inside its attention layers, for the computations that methods replace. The default does nothing."""

    def kv_inputs(self, attn: torch.nn.Module, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inputs of to_k and to_v [B, tokens, C] (hypernetworks change them)."""
        return context, context

    def upcast(self, attn: torch.nn.Module) -> bool:
        """Whether attention is to be computed in float32."""
        return False

    def obstacle(self, site: Site) -> str | None:
        """Why no method may change self-attention at ``site`` now (a clause), or None: something of the host's is at work there."""
        return None

    def fused_kernel(self) -> bool:
        """Whether the attention kernel in force avoids whole attention maps (scaled-dot-product, xFormers)."""
        return True


@dataclass(frozen=True)
class LayerAtWork:
    """A layer call.

    part: ``attn1`` | ``attn2`` | ``ff``. module: the layer. tokens: [B, N, C] as the layer was given them. x: [B, M, C], the same after
    merging. own: runs the layer's own forward on (tokens) or on (tokens, context that keys and values are taken from). has_context:
    whether it was given a context of other tokens, a text. context: [B, K, C] that context, or None.
    """

    part: str
    module: torch.nn.Module
    tokens: torch.Tensor
    x: torch.Tensor
    own: Callable[..., torch.Tensor]
    has_context: bool = False
    context: torch.Tensor | None = None


class Reduction(Protocol):
    """A layer call on fewer tokens."""

    def merge(self, y: torch.Tensor) -> torch.Tensor:
        """[B, N, C] -> [B, M, C]"""

    def unmerge(self, z: torch.Tensor) -> torch.Tensor:
        """[B, M, C] -> [B, N, C]"""


class Runner:
    """A method at work on one U-Net: its settings, its state, its account.

    A layer call goes through the phases serve > reduce > compute; a method takes part in those it overrides. Around the U-Net call it may
    drop rows (`begin`) and look at the prediction (`predicted`).
    """

    # Parts whose computation this method replaces. Two methods may not meet in one.
    computes: frozenset[str] = frozenset()
    # Parts whose tokens this method reduces. Two methods may not meet in one.
    reduces: frozenset[str] = frozenset()
    # Whether no other method may reduce or compute the parts that this one wants: its tokens are paired with those of other rows.
    exclusive = False
    # Whether block_tokens wants to see what a block is given.
    needs_tokens = False
    # Whether observe wants to see what layers return.
    observes = False
    # The coarsest level of this U-Net that has attention; the accelerator tells.
    coarsest = 0
    # Whether it adds something of its own to rows that it dropped; a host that drops rows itself has to ask for it (`direction`).
    changes_fill = False

    def __init__(self, config: Any) -> None:
        self.config = config
        self.account = MethodAccount(type(config).__name__, config)

    @property
    def window(self) -> Window:
        return self.config.window

    def wants(self, site: Site, finest: int) -> frozenset[str]:
        """Parts of ``site`` it acts on; ``finest`` is the finest level of this U-Net that has attention."""
        raise NotImplementedError

    def reset(self) -> None:
        """A new pass, size or model begins: forget what was kept."""

    def finish(self) -> None:
        """The last U-Net call of a pass is over: free what only the pass needed. The pass may still turn out to go on."""

    def begin(self, moment: Moment) -> RowPlan | None:
        """A U-Net call is about to run, or a host asks about its step: which rows to run, None for all. Comes once or more per step."""
        return None

    def predicted(self, moment: Moment, prediction: torch.Tensor, mine: bool) -> None:
        """What the U-Net predicted [rows, ...]. mine: this method dropped rows; those are filled, and may be changed in place."""

    def direction(self, moment: Moment, image: int) -> torch.Tensor | None:
        """The guidance direction that picture ``image`` goes on with in a step whose rows a host drops: noise [channels, h, w], float32."""
        return None

    def block_tokens(self, call: UNetCall, site: Site, x: torch.Tensor) -> None:
        """A block of this method's sites is about to run on the raw tokens ``x`` [B, N, C] (before its first norm)."""

    def serve(self, call: UNetCall, site: Site, layer: LayerAtWork) -> torch.Tensor | None:
        """The layer's output [B, N, C] from a cache, so that it need not run; None computes it."""
        return None

    def reduce(self, call: UNetCall, site: Site, part: str) -> Reduction | None:
        """How to run the layer on fewer tokens; None runs it on all."""
        return None

    def compute(self, call: UNetCall, site: Site, layer: LayerAtWork) -> torch.Tensor | None:
        """The layer's output [B, M, C] on ``layer.x``; None lets the layer's own forward compute it."""
        return None

    def observe(self, call: UNetCall, site: Site, layer: LayerAtWork, out: torch.Tensor) -> None:
        """The layer returned ``out`` [B, N, C], un-merged, and nothing was served. Hosts may edit it in place later: keep copies."""
