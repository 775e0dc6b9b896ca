"""Merging and unmerging tokens by one index map: merge is a segment mean, unmerge a gather."""

from __future__ import annotations

import torch
import torch.nn.functional as F


class MergePlan:
    """Which tokens share a slot.

    slots: [B, N] position -> slot, every slot 0 .. count - 1 used in every row. count: M, the tokens that remain.
    """

    def __init__(self, slots: torch.Tensor, count: int) -> None:
        self.slots = slots
        self.count = count
        batch = slots.shape[0]
        flat = (slots + torch.arange(batch, device=slots.device)[:, None] * count).flatten()
        # A stable sort lists every slot's tokens in grid order: the sum of a segment is then the same on every run.
        self._members = flat.sort(stable=True).indices
        self._starts = torch.searchsorted(flat[self._members], torch.arange(batch * count, device=slots.device))
        self._flat = flat

    def merge(self, y: torch.Tensor) -> torch.Tensor:
        """[B, N, C] -> [B, M, C], every slot the mean of its tokens. Accumulates in float32 without atomics."""
        batch, tokens, channels = y.shape
        rows = y.reshape(batch * tokens, channels)
        return _segment_mean(rows, self._members, self._starts).view(batch, self.count, channels)

    def unmerge(self, z: torch.Tensor) -> torch.Tensor:
        """[B, M, C] -> [B, N, C], every position a copy of its slot."""
        batch, count, channels = z.shape
        return z.reshape(batch * count, channels).index_select(0, self._flat).view(batch, -1, channels)


def _segment_mean(rows: torch.Tensor, members: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Mean of ``rows[members]`` over the segments that begin at ``starts``; no segment is empty."""
    if rows.device.type in ("cpu", "cuda"):
        # embedding_bag walks a segment in one thread: no atomics, float32 accumulators, nothing gathered in memory.
        return F.embedding_bag(members, rows, starts, mode="mean")
    ends = torch.cat([starts[1:], starts.new_tensor([members.numel()])])
    lengths = ends - starts
    owner = torch.repeat_interleave(torch.arange(starts.numel(), device=rows.device), lengths)
    sums = torch.zeros(starts.numel(), rows.shape[1], device=rows.device, dtype=torch.float32)
    sums.index_add_(0, owner, rows[members].float())
    return (sums / lengths[:, None]).to(rows.dtype)
