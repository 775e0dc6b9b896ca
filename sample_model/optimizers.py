"""The optimizer of a training: Muon for the matrices of hidden layers, AdamW for everything else.

Muon (Jordan et al. 2024) makes every direction of a matrix's step equally long. Scaled as AdamW's steps are (Liu et al. 2025, "Muon is
scalable for LLM training", section 2.2), it takes the same learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from .together import Together

OUTER = ("conv_in", "conv_out", "token_embedding", "position_embedding")  # layers that read the input or write the output


def hidden_matrices(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Weights of the matrices and filter banks of ``module`` that are in none of its OUTER layers."""
    named = module.named_parameters()
    return [weight for name, weight in named if weight.ndim > 1 and not set(name.split(".")) & set(OUTER)]


class MuonAndAdamW:
    """Both as one optimizer, with the methods of one that `training.Run` calls. Needs torch 2.9 or newer.

    Muon sees a bank of filters (out, in, height, width) as a matrix of (out, in x height x width). Of several processes each computes its
    share of Muon's steps, and all take them; so the momentum of the others' shares is not in a checkpoint.
    """

    def __init__(self, parameters: Iterable, matrices: Iterable, rate: float, weight_decay: float):
        self.matrices = list(matrices)
        known = {id(weight) for weight in self.matrices}
        others = [parameter for parameter in parameters if id(parameter) not in known]
        self.flat = [torch.nn.Parameter(weight.detach().view(len(weight), -1)) for weight in self.matrices]
        self.adamw = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
        self.parts, self.together = [self.adamw], Together()
        self.shares = self.together.shares([min(flat.shape) ** 2 * max(flat.shape) for flat in self.flat])
        if self.flat:
            self.parts.append(torch.optim.Muon(self.flat, lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))

    @property
    def param_groups(self) -> list[dict]:
        """Of both; to set the learning rate."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def is_new(self) -> bool:
        """Whether it has made no step yet."""
        return not self.adamw.state

    def zero_grad(self) -> None:
        """Forget all slopes."""
        self.adamw.zero_grad(set_to_none=True)
        for weight in (*self.matrices, *self.flat):
            weight.grad = None

    def step(self) -> None:
        """Change every parameter that has a slope."""
        ours = self.shares[self.together.rank]
        for index, (weight, flat) in enumerate(zip(self.matrices, self.flat)):
            flat.grad = None if weight.grad is None or index not in ours else weight.grad.reshape(flat.shape)
        for part in self.parts:
            part.step()
        self.together.spread(self.flat, self.shares)

    def state_dict(self) -> list[dict]:
        """What `load_state_dict` of another one for the same parameters takes."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, state: list[dict]) -> None:
        for part, theirs in zip(self.parts, state, strict=True):
            part.load_state_dict(theirs)
