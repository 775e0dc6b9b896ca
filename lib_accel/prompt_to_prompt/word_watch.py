"""What the words of an edited batch look at, by its edited maps: for a local blend's masks and for heat maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..core.rows import Row
from ..core.sites import Site
from ..engine.contract import UNetCall
from ..ops.attention_edits import CrossEdit, edited_cross_attention
from .layers import Layers
from .local_blend import edit_mask
from .maps import MapSums, columns_of, key_of
from .source_rows import Heads

if TYPE_CHECKING:
    from .method import PromptToPrompt

# Grids of at most so many tokens are watched for heat maps; where all are larger, the coarsest.
WATCHED = Layers("watched layers", "1024")

# Of a row and its keys, the values [K, groups] that its maps are asked for with; None: not at all.
Columns = Callable[[Row, torch.Tensor], "torch.Tensor | None"]


class WordWatch:
    """Maps of one pass. sums: of all words (`PromptToPrompt.tokens`). coarsest: see `Runner`."""

    def __init__(self, config: PromptToPrompt) -> None:
        self.config = config
        self.coarsest = 0
        self.sums = MapSums(config.every_step)
        self._blend_sums = MapSums()
        self._blend_layers = Layers("AlignedBlend.layers", config.blend.layers) if config.blend else None

    def clear(self) -> None:
        self.sums.clear()
        self._blend_sums.clear()

    def wanted(self, site: Site, tokens: int | None) -> bool:
        """Whether ``site`` is watched. tokens: its grid's, None while unknown."""
        return self._for_blend(site, tokens) or self._for_sums(site, tokens)

    def add(self, call: UNetCall, site: Site, heads: Heads, edits: Sequence[CrossEdit], scale: float, fp32: bool) -> None:
        """Sum up what the rows' words look at, by the edited maps."""
        h, w = call.grids[site]
        for sums, columns in self._columns(site, h * w):
            rows = [index for index, row in enumerate(call.rows) if row.role == "cond" and columns(row, heads.k) is not None]
            if not rows:
                continue
            values = torch.stack([columns(call.rows[index], heads.k) for index in rows])[:, None].expand(-1, heads.q.shape[1], -1, -1)
            own = [replace(edit, row=rows.index(edit.row)) for edit in edits if edit.row in rows]
            maps = edited_cross_attention(heads.q[rows], heads.k[rows], values, own, scale, fp32).mean(1)
            for index, one in zip(rows, maps):
                sums.add(key_of(call.rows[index]), site, call.step.index, one.T.unflatten(1, (h, w)))

    def masks(self, size: tuple[int, int], sources: Mapping[int, int]) -> dict[int, torch.Tensor]:
        """Edited image -> [H, W] of 0 and 1, where maps of it and of its source were seen. sources: edited image -> its source."""
        heat = {image: self._heat(image) for image in {*sources, *sources.values()}}
        return {
            image: edit_mask(heat[source], heat[image], size, self.config.blend)
            for image, source in sources.items()
            if heat[image] is not None and heat[source] is not None
        }

    def _columns(self, site: Site, tokens: int) -> list[tuple[MapSums, Columns]]:
        """What is asked for at ``site``."""
        blend, wanted = self.config.blend, []
        if self._for_blend(site, tokens):

            def words(row: Row, k: torch.Tensor) -> torch.Tensor | None:
                columns = blend.columns.get(key_of(row))
                return None if columns is None else columns_of(k.shape[2], (columns.blend, columns.subtract), k)

            wanted.append((self._blend_sums, words))
        if self._for_sums(site, tokens):
            wanted.append((self.sums, lambda row, k: torch.eye(k.shape[2], dtype=k.dtype, device=k.device)))
        return wanted

    def _for_blend(self, site: Site, tokens: int | None) -> bool:
        return self._blend_layers is not None and self._blend_layers.hold(site.place, site.level, tokens, self.coarsest)

    def _for_sums(self, site: Site, tokens: int | None) -> bool:
        return bool(self.config.tokens) and WATCHED.hold(site.place, site.level, tokens, self.coarsest)

    def _heat(self, image: int) -> torch.Tensor | None:
        """[2, h, w]: maps of the words that may change and of those that must not, over all AND parts."""
        parts = [self._blend_sums.mean(key) for key in sorted(self.config.blend.columns) if key[0] == image]
        seen = [part for part in parts if part is not None]
        return sum(seen) if seen else None
