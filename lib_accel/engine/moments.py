"""What methods are told: where a pass stands, the U-Net call and the layer call under way, and what the host does there."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from ..backends import Backend
from ..core.noise import Noise
from ..core.rows import Layout
from ..core.samplers import Sampler
from ..core.schedule import Step
from ..core.sites import Site
from ..core.stages import Stage

NO_ROWS = Layout(())


@dataclass
class UNetCall:
    """One armed call of the U-Net.

    rows: its layout. step: where it stands. pass_and_step: (number of the pass, step index), for counting.
    finest: the finest level of this U-Net that has attention. grids: real (h, w) in tokens, by site, as each spatial transformer sees it.
    shared: what methods keep for the length of this call. repeats: whether it runs once more what was seen before, so that nothing in it is
    kept for later calls or counted.
    """

    backend: Backend
    traits: HostTraits
    step: Step
    rows: Layout
    pass_and_step: tuple[int, int]
    finest: int = 0
    grids: dict[Site, tuple[int, int]] = field(default_factory=dict)
    shared: dict[Any, Any] = field(default_factory=dict)
    repeats: bool = False


@dataclass(frozen=True)
class Moment:
    """Where a pass stands: one U-Net call that is about to run, or a whole step that a host asks about.

    rows: all of them, before any is dropped or served. pass_and_step: (number of the pass, step index). guidance: the guidance scale,
    None when nobody told it. predicts, mixed: kind of prediction and of latents, as of `Noise`. noise: asks for the noise level, for
    which a GPU may have to be waited for. sample: the latents [rows, channels, h, w]; None when a host asks before its calls. settled: the
    step from which on the prompts stay as they are. guided_because: why no row may be dropped now (a clause); None: they may. dropped: the
    host has dropped what it was told to. evaluation: 1 in the second evaluation that a two-evaluation sampler (Heun, DPM2) makes for a
    step, otherwise 0. obstacle: asks why the rows of this call may not be cut (a clause), for which the whole U-Net is looked through;
    None: they may.
    sigmas: the noise level of every step of the pass, noise / signal also for flow matching, and after them where it ends (0 as a rule);
    None when nobody tells. sampler: what
    goes through them; None when nobody tells. scales: (guidance scale, scale of the picture in InstructPix2Pix) by which rows are combined,
    weight by weight; None: as ``guidance`` says. state: of whatever else predictions depend on (which ControlNet units are on); what was
    kept under another is let go. whole_because: why no call may be left out as a whole (a clause); None: they may.
    joins: asks what may join something of its own to what stages return, a ControlNet's residuals or another forward (a clause); None:
    nothing.
    in_other_calls: the rows that the other U-Net calls of this step hold, as far as a host or a guider told them.
    sigma: the noise level as a host told it; it costs nothing to ask.
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
    evaluation: int = 0
    sigmas: tuple[float, ...] | None = None
    obstacle: Callable[[], str | None] = lambda: None
    sampler: Sampler | None = None
    scales: tuple[float, float | None] | None = None
    state: Hashable = None
    whole_because: str | None = None
    joins: Callable[[], str | None] = lambda: None
    mixed: str = ""
    in_other_calls: Layout = NO_ROWS
    sigma: float | None = None


@dataclass(frozen=True)
class StageCut:
    """A U-Net call of which only the shallow stages run.

    before: the up stage that what was kept enters, before the skip connection is joined to it. It and all later stages run, and the down
    stages whose skip connections they take; nothing between runs. hidden: [rows of ``rows``, C, h, w] what enters it. rows: indices (into
    `Moment.rows`) of the rows that are served so; the deep stages run on the others alone.
    """

    before: Stage
    rows: tuple[int, ...]
    hidden: torch.Tensor


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
