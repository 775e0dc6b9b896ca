"""What the behaviour tests run through: methods alone and in stages; and every method that there is, in the steps in which it acts."""

from __future__ import annotations

from typing import Any

import models
import torch

from lib_accel import AgentAttention, TokenDownsampling, TokenMerging
from lib_accel.core.method import CALL, STAGES
from lib_accel.core.rows import Layout
from lib_accel.methods import METHODS as REGISTERED

METHODS = {
    "agents": (AgentAttention(window=(0, 1)),),
    "merging": (TokenMerging(),),
    "downsampling": (TokenDownsampling(deeper_factor=2),),
    "stages": (AgentAttention(window=(0, 0.4)), TokenMerging(window=(0.4, 1))),
    "everywhere": (AgentAttention(sx=2, sy=4, max_downsample=4, merge_crossattn=True, merge_mlp=True, window=(0, 1)),),
}
# As each method declares to be tried out.
EVERY = {**METHODS, **{method.__name__: (method.example(),) for method in REGISTERED}}
TIMESTEPS = (999, 399)


def one_pass(unet: Any, name: str, accelerator: Any = None) -> torch.Tensor:
    """[calls, rows, 4, h, w]: the predictions of a pass of two rows under the case ``name``, which its accelerator is told."""
    declared = EVERY[name][0].declaration
    total = max(declared.check_steps[1], len(TIMESTEPS))
    made = []
    for index, timestep in enumerate(_timesteps(name)):
        if accelerator is not None:
            rows = declared.check_rows or Layout.guided(2)
            accelerator.step(index, total, rows, sampler="Euler", sigmas=range(total, -1, -1))
        made.append(models.call(unet, models.inputs(h=8, w=8, timestep=timestep)))
    return torch.stack(made)


def plain_pass(kind: str, name: str) -> torch.Tensor:
    """What `one_pass` gives of a fresh model of this kind in `models.ALL`: computed once, and not to be written to."""
    return models.plain_pass(kind, _timesteps(name), h=8, w=8)


def _timesteps(name: str) -> tuple[int, ...]:
    told = EVERY[name][0].declaration.check_steps[0]
    return TIMESTEPS if told <= len(TIMESTEPS) else tuple(TIMESTEPS[0] - 100 * index for index in range(told))


def watches(name: str) -> bool:
    """Whether the case changes nothing of what the U-Net returns."""
    return EVERY[name][0].declaration.watches


def serves_calls(name: str) -> bool:
    """Whether the case may serve whole U-Net calls."""
    return EVERY[name][0].declaration.acts_on == CALL


def needs_stages(name: str) -> bool:
    """Whether the case acts on stages, which a transformer without skip connections has none of."""
    return EVERY[name][0].declaration.acts_on == STAGES
