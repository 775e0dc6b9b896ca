"""Heat maps: where each word's cross-attention looks, watched without changing anything.

Source: the maps that Prompt-to-Prompt (Hertz et al., arXiv 2208.01626) shows in its figures, as means over heads, layers and steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..backends.known import PLAIN
from ..core.fields import SettingError, check, setting
from ..core.method import TOKENS, Declaration, Kind, Method
from ..core.reasons import Reason
from ..core.sites import Site
from ..engine.contract import LayerAtWork, Moment, Runner, UNetCall
from ..ops.attention_edits import attend
from ..ops.levels import grid_at
from .layers import Layers
from .maps import MapSums, key_of, maps_of
from .segmenting import streams
from .tokens import PromptTokens


@dataclass(frozen=True)
class HeatMaps(Method):
    """Settings of watching. SettingError when one cannot be.

    tokens: the prompts' tokens, one for every picture of the batch, or one for all; see `image_editing.text.tokens_for`.
    layers: blocks that are watched, see `Layers`; 1024 are those with at most so many tokens, of larger pictures at least the
    coarsest.
    every_step: the maps of each layer and step are kept, too (`MapSums.by_step`): more memory, 0.3 MB for each at 32x32 tokens.
    """

    declaration = Declaration(acts_on=TOKENS, kinds=(Kind("watched", "words watched", "#8aa1a8"),), watches=True)

    tokens: tuple[PromptTokens, ...]
    layers: str = setting("1024", "text", "Watched layers", "finer ones too: sharper, slower")
    every_step: bool = setting(False, "flag", "Keep every step", "on: more memory")

    def __post_init__(self) -> None:
        tokens = (self.tokens,) if isinstance(self.tokens, PromptTokens) else tuple(self.tokens)
        if not tokens or not all(isinstance(one, PromptTokens) for one in tokens):
            raise SettingError(f"HeatMaps.tokens is {self.tokens!r}; it must be PromptTokens, one for every picture or one for all.")
        object.__setattr__(self, "tokens", tokens)
        check(self)
        Layers("HeatMaps.layers", self.layers)

    def runner(self) -> HeatRunner:
        return HeatRunner(self)

    @classmethod
    def example(cls) -> HeatMaps:
        return cls(tuple(streams("a photo of a squirrel on a table")))


class HeatRunner(Runner):
    """Heat maps at work."""

    observes = True
    ability = PLAIN
    outlives_prompts = True
    window = (0.0, 1.0)

    def __init__(self, config: HeatMaps) -> None:
        super().__init__(config)
        self.sums = MapSums(config.every_step)
        self._layers = Layers("HeatMaps.layers", config.layers)
        self._latents: tuple[int, int] | None = None

    def word_maps(self, words: Sequence[str | int], every_step: bool) -> dict[str | int, Any] | None:
        """See `Accelerator.heat_maps`."""
        return maps_of(self.sums, self.config, words, every_step)

    def begin_pass(self, moment: Moment) -> None:
        # Not when a pass is reset: maps stay readable after it, also after the methods were taken off.
        self.sums.clear()

    def begin_call(self, moment: Moment) -> None:
        self._latents = tuple(moment.sample.shape[-2:])
        if not moment.rows.known:
            self.account.note(Reason.of("no_maps", "no maps: it is not known which rows are conditional"))

    def wants(self, site: Site, finest: int) -> frozenset[str]:
        h, w = grid_at(*self._latents, site.level)
        return frozenset({"attn2"}) if self._layers.hold(site.place, site.level, h * w, self.coarsest) else frozenset()

    def observe(self, call: UNetCall, site: Site, layer: LayerAtWork, out: torch.Tensor) -> None:
        rows = [index for index, row in enumerate(call.rows) if row.role == "cond"]
        if not rows or layer.context is None:
            return
        attn, backend = layer.module, call.backend
        context = layer.context[rows]
        q = backend.split_heads(attn, attn.to_q(layer.tokens[rows]))
        k = backend.split_heads(attn, attn.to_k(call.traits.kv_inputs(attn, context)[0]))
        values = torch.eye(k.shape[2], dtype=k.dtype, device=k.device).expand(*k.shape[:2], -1, -1)
        maps = attend(q, k, values, backend.scale_of(attn, q.shape[-1]), call.traits.upcast(attn)).mean(1)
        h, w = call.grids[site]
        for row, one in zip(rows, maps):
            self.sums.add(key_of(call.rows[row]), site, call.step.index, one.T.unflatten(1, (h, w)))
        self.account.acted("maps", site.name)
        self.account.steps.add(call.pass_and_step)
