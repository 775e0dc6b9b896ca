"""Layers of diffusers that were built to compute their scores in float32 (SD2.1's) do so with agents, too."""

import models
import torch

from lib_accel import AgentAttention, accelerated


def prediction(unet, **settings):
    with accelerated(unet, AgentAttention(window=(0, 1), **settings), auto=False) as accelerator:
        out = models.call(unet, models.inputs(dtype=torch.bfloat16))
    assert accelerator.report().as_dict()["methods"][0]["layers_by_effect"]["agents"]
    return out


def test_the_layers_own_wish_is_heeded():
    models.need(torch.bfloat16)
    unet = models.in_dtype(models.diffusers_unet_sd2(), torch.bfloat16)
    assert torch.equal(prediction(unet), prediction(unet, attn_precision="fp32"))
    without = models.in_dtype(models.diffusers_unet_sd2(upcast_attention=False), torch.bfloat16)
    assert torch.equal(prediction(without, attn_precision="fp32"), prediction(unet))
    assert not torch.equal(prediction(without), prediction(unet))
