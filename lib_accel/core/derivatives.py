"""Whether somebody differentiates what a U-Net computes. What methods do to it is not meant to be."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

from .reasons import Reason


def why_derivatives() -> str | None:
    """What asks for derivatives of the operations that follow (a clause), or None: nothing does, they may be replaced.

    Forward-mode differentiation and the transforms of torch.func (jvp, vmap) work under ``torch.no_grad`` as well.
    """
    if torch.is_grad_enabled():
        return Reason.of("gradients", "gradients are enabled (run under torch.no_grad())")
    # Neither has a public question; both are there from torch 2.1 on.
    if getattr(forward_ad, "_current_level", -1) >= 0:
        return Reason.of("forward_mode", "forward-mode derivatives are taken")
    transform = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", lambda: None)()
    return None if transform is None else Reason.of("torch_func", "a transform of torch.func is active")
