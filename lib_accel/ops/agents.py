"""Agent attention: softmax attention through a few agent tokens, as two scaled-dot-product calls."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .precision import without_autocast


def agents_pay(agents: int, tokens: int) -> bool:
    """The published rule: agents are used only when twice their number is below the number of tokens."""
    return 2 * agents < tokens


def agent_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    scale: float,
    k_scale2: float = 0.3,
    k_shortcut: float = 0.075,
    fp32: bool = False,
) -> torch.Tensor:
    """``softmax(scale**k_scale2 * q a^T) softmax(scale * a k^T) v + k_shortcut * v``.

    q, k, v: [B, heads, M, d] of the same M tokens; a: [B, heads, n, d], agents after the *query* projection. Returns [B, heads, M, d]
    in v's dtype. ``fp32`` takes both stages in float32 (Stable Diffusion 2.1's activations overflow half precision).
    Source: Agent Attention (arXiv 2312.08874), section 3 and its application to Stable Diffusion. Costs 4*n*M*C multiply-adds per row
    instead of 2*M*M*C.
    """
    dtype = v.dtype
    if fp32 and dtype in (torch.float16, torch.bfloat16):
        with without_autocast(q.device.type):
            q, k, a, wide = q.float(), k.float(), a.float(), v.float()
            out = _two_stages(q, k, wide, a, scale, k_scale2)
            return out.add_(wide, alpha=k_shortcut).to(dtype)
    return _two_stages(q, k, v, a, scale, k_scale2).add_(v, alpha=k_shortcut)


def _two_stages(q, k, v, a, scale: float, k_scale2: float) -> torch.Tensor:
    gathered = F.scaled_dot_product_attention(a, k, v, scale=scale)
    return F.scaled_dot_product_attention(q, a, gathered, scale=scale**k_scale2)
