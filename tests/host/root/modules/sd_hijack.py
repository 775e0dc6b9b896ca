"""The attention kernel that the user chose, put on the class of all attention layers."""

import sys
from types import SimpleNamespace

import torch.nn.functional as F

from modules import shared
from modules.hypernetworks import hypernetwork

optimizers = [SimpleNamespace(name="sdp"), SimpleNamespace(name="Doggettx")]
current_optimizer = None
_plain = {}


def attention(self, x, context=None, mask=None, **kwargs):
    keys, values = hypernetwork.apply_hypernetworks(shared.loaded_hypernetworks, x if context is None else context)
    q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.to_q(x), self.to_k(keys), self.to_v(values)))
    dtype = q.dtype
    if shared.opts.upcast_attn:
        q, k, v = q.float(), k.float(), v.float()
    if current_optimizer.name == "sdp":
        out = F.scaled_dot_product_attention(q, k, v)
    else:
        out = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v
    return self.to_out(out.to(dtype).transpose(1, 2).flatten(2))


def apply_optimizations(name="sdp"):
    global current_optimizer
    current_optimizer = next(optimizer for optimizer in optimizers if optimizer.name == name)
    for module in ("ldm.modules.attention", "sgm_twin"):
        if module in sys.modules:
            owner = sys.modules[module].CrossAttention
            _plain.setdefault(owner, owner.forward)
            owner.forward = attention


def undo():
    global current_optimizer
    current_optimizer = None
    while _plain:
        owner, forward = _plain.popitem()
        owner.forward = forward
