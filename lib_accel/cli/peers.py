"""What accelerations are compared with: the host's own attention, other libraries, and the limits of what can be won."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import nn

from ..core.sites import find_unet
from .limits import LIMITS
from .published_tgate import published_tgate
from .step_caches import STEP_CACHES


def sdpa_forward(self, x, context=None, mask=None, **kwargs):
    """What the WebUI's usual optimiser makes of LDM's ``CrossAttention.forward``: no map of scores is held. Masks are not for it."""
    context = x if context is None else context
    q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.to_q(x), self.to_k(context), self.to_v(context)))
    out = F.scaled_dot_product_attention(q, k, v)
    return self.to_out(out.transpose(1, 2).flatten(2))


@contextmanager
def class_level_sdpa() -> Iterator[None]:
    """LDM's CrossAttention on scaled-dot-product attention, put in at class level as the WebUI does."""
    from ldm.modules.attention import CrossAttention

    before = CrossAttention.forward
    CrossAttention.forward = sdpa_forward
    try:
        yield
    finally:
        CrossAttention.forward = before


@contextmanager
def tomesd_merging(model: Any) -> Iterator[None]:
    """tomesd with half of the tokens merged and its own defaults."""
    import tomesd

    # tomesd knows a diffusers U-Net as it is, an LDM one only inside its model.
    unet = target = find_unet(model)
    if not hasattr(unet, "down_blocks"):
        target = nn.Module()
        target.model = nn.Module()
        target.model.diffusion_model = unet
    tomesd.apply_patch(target, ratio=0.5)
    try:
        yield
    finally:
        tomesd.remove_patch(target)


PEERS = {
    "tomesd": tomesd_merging,
    "published-tgate": published_tgate,
    "published-tgate-self": partial(published_tgate, with_self=True),
    **STEP_CACHES,
    **LIMITS,
}
