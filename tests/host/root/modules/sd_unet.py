"""Other U-Nets in place of the model's: then no block of it runs."""

import sys

import torch
import torch.nn.functional as F

current_unet = None
_plain = {}


class _Torch:
    """torch, but for skip connections whose sizes differ by rounding: the first is brought to the other's size."""

    def __getattr__(self, name):
        return getattr(torch, name)

    def cat(self, tensors, dim=0):
        if tensors[0].ndim == 4 and tensors[0].shape[-2:] != tensors[1].shape[-2:]:
            tensors = [F.interpolate(tensors[0], tensors[1].shape[-2:], mode="nearest"), tensors[1]]
        return torch.cat(tensors, dim)


def install(unet_class):
    """Wrap the class's forward, as the host does."""
    if unet_class in _plain:
        return
    plain = _plain[unet_class] = unet_class.forward
    _set_torch(unet_class, _Torch())

    def forward(self, x, timesteps=None, context=None, *args, **kwargs):
        run = plain.__get__(self) if current_unet is None else current_unet.forward
        return run(x, timesteps, context, *args, **kwargs)

    unet_class.forward = forward


def uninstall():
    while _plain:
        unet_class, forward = _plain.popitem()
        unet_class.forward = forward
        _set_torch(unet_class, torch)


def _set_torch(unet_class, new):
    """Under the name by which the class's file knows it."""
    names = vars(sys.modules[unet_class.__module__])
    names["th" if "th" in names else "torch"] = new
