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
    """Mean of ``rows[members]`` over the segments that begin at ``starts``; no segment is empty.

    embedding_bag walks a segment in one thread: no atomics, nothing gathered in memory.
    """
    if rows.device.type in ("cuda", "meta"):
        return F.embedding_bag(members, rows, starts, mode="mean")
    if rows.device.type == "cpu":
        # On a CPU it keeps the sums of half precision rows in half precision, where they overflow.
        wide = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
        return F.embedding_bag(members, wide, starts, mode="mean").to(rows.dtype)
    return _segment_mean_by_scan(rows, members, starts)


def _segment_mean_by_scan(rows: torch.Tensor, members: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """`_segment_mean` out of elementwise operations alone, for devices without embedding_bag: sums double their reach in every round."""
    ends = torch.cat([starts[1:], starts.new_tensor([members.numel()])])
    lengths = ends - starts
    owner = torch.repeat_interleave(torch.arange(starts.numel(), device=rows.device), lengths)
    wide = rows if rows.dtype == torch.float64 else rows.float()
    sums = wide.index_select(0, members)
    reach, longest = 1, int(lengths.max())
    while reach < longest:
        same = (owner[reach:] == owner[:-reach])[:, None]
        sums = torch.cat([sums[:reach], sums[reach:] + torch.where(same, sums[:-reach], 0)])
        reach *= 2
    return (sums.index_select(0, ends - 1) / lengths[:, None]).to(rows.dtype)
