"""2-D bipartite soft matching: which tokens of a grid are merged into which.

Source: Token Merging for Fast Stable Diffusion (Bolya and Hoffman, arXiv 2303.17604), section 4, with the larger second cut of Agent
Attention for Stable Diffusion (arXiv 2312.08874). Here every sort is stable and the best match is found chunk by chunk in float32,
so the result does not depend on the device's sorting network and the score matrix is never held whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .local_matching import KeptTensors, best_near, near_destinations, regular_near_destinations
from .precision import without_autocast

_SCORE_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}


@dataclass(frozen=True)
class Match:
    """Sources of a grid and the destination each is most similar to.

    destinations: [D] positions (row * width + column), ascending. sources: [S] all other positions, ascending.
    best: [B, S] index into ``destinations``. order: [B, S] indices into ``sources``, most similar first.
    """

    tokens: int
    destinations: torch.Tensor
    sources: torch.Tensor
    best: torch.Tensor
    order: torch.Tensor

    def slots(self, merged: int) -> torch.Tensor:
        """[B, N] position -> slot when the ``merged`` most similar sources (0 to S) join their destinations.

        Slots number the N - merged surviving positions in grid order.
        """
        batch = self.best.shape[0]
        order = self.order[:, :merged]
        gone = self.sources[order]
        target = torch.arange(self.tokens, device=gone.device).repeat(batch, 1)
        target.scatter_(1, gone, self.destinations[self.best.gather(1, order)])
        survives = torch.ones_like(target)
        survives.scatter_(1, gone, 0)
        return (survives.cumsum(1) - 1).gather(1, target)


def destination_positions(h: int, w: int, sx: int, sy: int, offsets: torch.Tensor | None = None) -> torch.Tensor:
    """[D] ascending positions of one token per complete cell of ``sx`` columns and ``sy`` rows; D = (h // sy) * (w // sx).

    offsets: [h // sy, w // sx] on the CPU, of 0 .. sx*sy - 1, the chosen token of each cell (row ``o // sx``, column ``o % sx``);
    the top left one without.
    Rows and columns that fill no cell hold no destination; D is 0 when the grid is smaller than one cell.
    """
    return _cell_positions(h, w, sx, sy, offsets).sort().values


def _cell_positions(h: int, w: int, sx: int, sy: int, offsets: torch.Tensor | None) -> torch.Tensor:
    """The positions of `destination_positions`, by cell in row-major order."""
    rows = torch.arange(h // sy, device="cpu").mul(sy)[:, None]
    columns = torch.arange(w // sx, device="cpu").mul(sx)[None, :]
    if offsets is None:
        positions = rows * w + columns
    else:
        positions = (rows + torch.div(offsets, sx, rounding_mode="floor")) * w + columns + offsets % sx
    return positions.flatten()


def random_offsets(h: int, w: int, sx: int, sy: int, step: int, level: int) -> torch.Tensor:
    """[h // sy, w // sx] offsets for `destination_positions`, a function of (grid, cell, step, level) alone."""
    generator = torch.Generator("cpu").manual_seed(1_000_003 * step + level)
    return torch.randint(0, sx * sy, (h // sy, w // sx), generator=generator, device="cpu")


def match_tokens(
    x: torch.Tensor,
    h: int,
    w: int,
    sx: int,
    sy: int,
    offsets: torch.Tensor | None = None,
    radius: int | None = None,
    kept: KeptTensors | None = None,
) -> Match | None:
    """Match the tokens of ``x`` [B, h*w, C] by cosine similarity. None when the grid is smaller than one cell or all are destinations.

    radius: compare a source with the destinations at most so many cells away (from 1); None compares it with all. kept: where
    tables of neighbours are kept from one matching to the next.
    The similarity is taken in float32 (float64 for float64 input) whatever the dtype of ``x``; an all-zero token is similar to nothing.
    """
    tokens = x.shape[1]
    if offsets is None:
        destinations, sources = _regular_split(h, w, sx, sy, x.device, kept or KeptTensors(0))
    else:
        destinations, sources = _split(h, w, sx, sy, offsets, x.device)
    if destinations.numel() in (0, tokens):
        return None

    with without_autocast(x.device.type):
        metric = F.normalize(x.float() if x.dtype != torch.float64 else x, dim=-1)
        if radius is None:
            best_scores, best = _best_match(metric, sources, metric[:, destinations].transpose(1, 2))
        else:
            best_scores, best = best_near(metric, sources, destinations, _near(h, w, sx, sy, radius, offsets, x.device, kept))
    order = best_scores.sort(dim=1, descending=True, stable=True).indices
    return Match(tokens, destinations, sources, best, order)


def _split(h: int, w: int, sx: int, sy: int, offsets, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Destinations [D] and sources [S] on ``device``; worked out on the CPU, where counting them does not stall a GPU."""
    destinations = destination_positions(h, w, sx, sy, offsets)
    is_source = torch.ones(h * w, dtype=torch.bool, device="cpu")
    is_source[destinations] = False
    return destinations.to(device), is_source.nonzero().flatten().to(device)


def _near(
    h: int, w: int, sx: int, sy: int, radius: int, offsets: torch.Tensor | None, device: torch.device, kept: KeptTensors | None
) -> torch.Tensor:
    """[K, S] indices of the destinations near each source, on ``device``. Sources are split anew: fetching them stalls a GPU."""
    if offsets is None:
        key = (h, w, sx, sy, radius, device)
        return (kept or KeptTensors(0)).get(key, lambda: regular_near_destinations(*key))
    cells = _cell_positions(h, w, sx, sy, offsets).argsort().argsort()
    return near_destinations(h, w, sx, sy, radius, cells, _split(h, w, sx, sy, offsets, "cpu")[1]).to(device)


def _regular_split(h: int, w: int, sx: int, sy: int, device: torch.device, kept: KeptTensors) -> tuple[torch.Tensor, torch.Tensor]:
    """`_split` of top-left destinations."""

    def both() -> torch.Tensor:
        with torch.inference_mode(False):
            return torch.cat(_split(h, w, sx, sy, None, device))

    destinations = (h // sy) * (w // sx)
    return kept.get((h, w, sx, sy, device), both).tensor_split([destinations])


def _best_match(metric: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Highest score [B, S] of every source against ``targets`` [B, C, D], and where it is."""
    batch, _, count = targets.shape
    budget = _SCORE_BYTES.get(metric.device.type, 64 << 20)
    chunk = max(64, budget // (batch * count * metric.element_size()))
    parts = [torch.bmm(metric[:, part], targets).max(dim=2) for part in sources.split(chunk)]
    return torch.cat([p.values for p in parts], 1), torch.cat([p.indices for p in parts], 1)
