"""Matching among neighbouring cells alone: a source is compared with the destinations near it instead of with all."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch

# Sources compared at a time: what a processor's cache holds of them.
_CHUNK = 2048
# Bytes that one method keeps of `near_destinations`. A table for 64x64 tokens and radius 1 has 221 kB, one for 128x128 and radius 16 has
# 107 MB.
MOST_BYTES = 32 << 20


class KeptTensors:
    """Tensors that are worked out once and used again, ``most`` bytes of them; the oldest go first."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most, self._kept = most, {}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._kept.values())

    def get(self, key: Hashable, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The tensor kept for ``key``, or what ``make`` makes, which is kept if it fits."""
        if key in self._kept:
            return self._kept[key]
        made = make()
        if made.nbytes <= self._most:
            while self.nbytes + made.nbytes > self._most:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = made
        return made

    def clear(self) -> None:
        self._kept.clear()


def near_destinations(h: int, w: int, sx: int, sy: int, radius: int, cells: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    """[(2*radius+1)**2, S] indices of the destinations of the cells around each source, on the CPU.

    cells: [(h // sy) * (w // sx)] index of each cell's destination, cells in row-major order. sources: [S] positions.
    Tokens behind the last complete cell count as of that cell; beyond the border the border's cells come again.
    """
    down, across = h // sy, w // sx
    row = (sources // w // sy).clamp(max=down - 1)
    column = (sources % w // sx).clamp(max=across - 1)
    reach = range(-radius, radius + 1)
    around = [(row + i).clamp(0, down - 1) * across + (column + j).clamp(0, across - 1) for i in reach for j in reach]
    return cells[torch.stack(around)]


def regular_near_destinations(h: int, w: int, sx: int, sy: int, radius: int, device) -> torch.Tensor:
    """`near_destinations` of top-left destinations, on ``device``."""
    with torch.inference_mode(False):
        is_destination = torch.zeros(h, w, dtype=torch.bool, device="cpu")
        is_destination[: h // sy * sy : sy, : w // sx * sx : sx] = True
        sources = (~is_destination).flatten().nonzero().flatten()
        cells = torch.arange((h // sy) * (w // sx), device="cpu")
        return near_destinations(h, w, sx, sy, radius, cells, sources).to(device)


def best_near(metric: torch.Tensor, sources: torch.Tensor, destinations: torch.Tensor, near: torch.Tensor):
    """Highest score [B, S] of every source of ``metric`` [B, N, C] among its ``near`` [K, S] destinations, and which it is [B, S]."""
    parts = []
    for source, candidates in zip(sources.split(_CHUNK), near.split(_CHUNK, dim=1)):
        tokens = metric[:, source]
        scores = torch.stack([(tokens * metric[:, destinations[c]]).sum(-1) for c in candidates])
        best = scores.max(dim=0)
        parts.append((best.values, candidates.gather(0, best.indices)))
    return torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts], 1)
