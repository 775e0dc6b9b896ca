"""What a model looks like from outside and inside, so that tests can tell whether anything was left on it."""

from __future__ import annotations

import torch
from torch import nn

HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def fingerprint(model: nn.Module) -> dict[str, tuple]:
    """For every module: its class, the class's forward, its attributes, all its hooks, its instance-level forward."""
    return {name: _of(module) for name, module in model.named_modules()}


def _of(module: nn.Module) -> tuple:
    tables = {key: list(value) for key, value in vars(module).items() if "hooks" in key}
    functions = {key: [id(hook) for hook in vars(module).get(key, {}).values()] for key in HOOKS}
    values = {key: id(value) for key, value in vars(module).items() if "hooks" not in key and not isinstance(value, (torch.Tensor, dict))}
    return (type(module), id(type(module).forward), sorted(vars(module)), tables, functions, values, id(vars(module).get("forward")))


def differences(before: dict[str, tuple], after: dict[str, tuple]) -> set[str]:
    """Names of the modules that differ."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
