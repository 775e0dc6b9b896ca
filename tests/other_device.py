"""A device that is none of the processor's, without one: tensors and models in disguise, for code that no test runs on a GPU.

Like tensors of a GPU they do not mix with the processor's (numbers and indices apart), and like MPS's they have no float64.
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

DEVICE = torch.device("mps")
# What comes back to the processor.
LEAVES = ("cpu", "tolist", "item", "__float__", "__int__", "__bool__", "__index__", "__repr__", "__format__", "__len__", "__contains__")
# What takes tensors of both.
TAKES_BOTH = ("__getitem__", "__setitem__", "to", "copy_", "type_as", "_has_compatible_shallow_copy_type", "is_set_to")


class OnDevice(torch.Tensor):
    """A tensor in disguise."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func == torch.Tensor.device.__get__:
            return DEVICE
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert mps device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")
        devices = [one for one in (*args[1:], *kwargs.values()) if isinstance(one, (str, torch.device))] if name == "to" else []
        leaves = name in LEAVES or any(torch.device(one).type == "cpu" for one in devices)
        stays = name in ("to", "copy_", "__setitem__") and not isinstance(args[0], OnDevice)
        if name == "double" or (name in ("to", "type") and torch.float64 in _plain(args, kwargs) and not leaves):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
        if name not in TAKES_BOTH and any(type(one) is torch.Tensor and one.ndim for one in _tensors((args, kwargs))):
            raise RuntimeError(f"Expected all tensors to be on the same device, in {name}")
        if name == "to":
            args, kwargs = _without(args, kwargs, lambda one: isinstance(one, (str, torch.device)))
            if leaves:
                args = (args[0].as_subclass(torch.Tensor), *args[1:])
        elif kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": None}
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **kwargs)
        if leaves and isinstance(out, torch.Tensor):
            return out.as_subclass(torch.Tensor)
        return out if leaves or stays else _disguised(out)


class Elsewhere(TorchFunctionMode):
    """Inside, what is asked for on `DEVICE` is made there. is_there: False changes nothing."""

    def __init__(self, is_there: bool = True) -> None:
        super().__init__()
        self._is_there = is_there

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        asked = [one for one in _plain(args, kwargs) if one == DEVICE.type or (isinstance(one, torch.device) and one == DEVICE)]
        if not (self._is_there and asked) or any(isinstance(one, OnDevice) for one in args):
            return func(*args, **kwargs)
        args, kwargs = _without(args, kwargs, lambda one: isinstance(one, (str, torch.device)) and torch.device(one) == DEVICE)
        if torch.float64 in _plain(args, kwargs):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
        return _disguised(func(*args, **kwargs))


def on_device(tensor: torch.Tensor) -> OnDevice:
    """A copy of ``tensor`` in disguise."""
    return tensor.detach().clone().as_subclass(OnDevice)


def moved(model: nn.Module) -> nn.Module:
    """``model`` with its parameters and buffers in disguise."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = nn.Parameter(on_device(value), requires_grad=False)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = on_device(value)
    return model


def _plain(args, kwargs):
    return [one for one in (*args, *kwargs.values()) if not isinstance(one, torch.Tensor)]


def _without(args, kwargs, left_out):
    return tuple(one for one in args if not left_out(one)), {name: one for name, one in kwargs.items() if not left_out(one)}


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _disguised(value):
    if type(value) is torch.Tensor:
        return value.as_subclass(OnDevice)
    if isinstance(value, Iterator):
        return map(_disguised, value)
    # Also of values and indices.
    return type(value)([_disguised(one) for one in value]) if isinstance(value, (tuple, list)) and type(value) is not torch.Size else value
