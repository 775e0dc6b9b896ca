"""Attention of edited pictures as a few scaled-dot-product calls. No attention map is held: edits are linear in the maps.

Source: Prompt-to-Prompt Image Editing with Cross Attention Control (Hertz et al., arXiv 2208.01626). Its edits have the form
P_new = P_source A + P_edit D, so P_new V = attention(Q_source, K_source, A V) + attention(Q_edit, K_edit, D V).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .precision import without_autocast


@dataclass(frozen=True, eq=False)
class CrossEdit:
    """How one row is edited.

    row: its place in the batch. q, k: [heads, N, d] and [heads, K, d] of its source. take: A [K, K], None for zero. keep: D [K], None for
    zero.
    """

    row: int
    q: torch.Tensor
    k: torch.Tensor
    take: torch.Tensor | None
    keep: torch.Tensor | None


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, fp32: bool = False) -> torch.Tensor:
    """softmax(q k^T scale) v for [B, heads, N, d], [B, heads, K, d], [B, heads, K, e] -> [B, heads, N, e], by PyTorch's kernels.

    fp32: computed in float32 from half precision.
    """
    if fp32 and q.dtype in (torch.float16, torch.bfloat16):
        with without_autocast(q.device.type):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), scale=scale).to(v.dtype)
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def edited_cross_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, edits: Sequence[CrossEdit], scale: float, fp32: bool = False
) -> torch.Tensor:
    """Cross-attention [B, heads, N, e] of a batch some of whose rows are edited; the others get just what they would get.

    q: [B, heads, N, d]. k: [B, heads, K, d]. v: [B, heads, K, e].
    """
    kept = v.clone() if edits else v
    for edit in edits:
        kept[edit.row] = 0 if edit.keep is None else v[edit.row] * edit.keep.to(v)[:, None]
    out = attend(q, k, kept, scale, fp32)
    taking = [edit for edit in edits if edit.take is not None]
    if not taking:
        return out
    mixed = torch.stack([_mixed(edit.take, v[edit.row]) for edit in taking])
    from_source = attend(torch.stack([edit.q for edit in taking]), torch.stack([edit.k for edit in taking]), mixed, scale, fp32)
    for edit, more in zip(taking, from_source):
        out[edit.row] += more
    return out


def _mixed(take: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """A V for [K, K] and [heads, K, e], summed in float32 at least."""
    wide = v if v.dtype == torch.float64 else v.float()
    with without_autocast(v.device.type):
        return torch.matmul(take.to(wide), wide).to(v.dtype)
