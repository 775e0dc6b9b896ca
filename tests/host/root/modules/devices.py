from contextlib import nullcontext

import torch

cpu = device = torch.device("cpu")
dtype = dtype_unet = torch.float32
unet_needs_upcast = False


def autocast(disable=False):
    return nullcontext()


def without_autocast(disable=False):
    return nullcontext()


def torch_gc():
    pass


def cond_cast_unet(tensor):
    return tensor


def cond_cast_float(tensor):
    return tensor
