"""SDXL's seventy blocks and its refiner's forty-four, at their places, with narrow channels: which of them a method acts on."""

from collections import Counter

import models
import pytest
import torch

from lib_accel import AgentAttention, TokenMerging, accelerated

LATENT = 128  # 1024 pixels


def sgm_base():
    return models.sgm_unet(channel_mult=[1, 1, 1], transformer_depth=[0, 2, 10], num_res_blocks=2)


def sgm_refiner():
    depths = [4, 4, 4, 4]
    return models.sgm_unet(channel_mult=[1, 1, 1, 1], transformer_depth=depths, num_res_blocks=2)


def diffusers_base():
    return models.diffusers_unet_sdxl(
        block_out_channels=(16, 16, 16), layers_per_block=2, transformer_layers_per_block=(1, 2, 10), attention_head_dim=1
    )


UNETS = {"sgm": sgm_base, "sgm-refiner": sgm_refiner, "diffusers": diffusers_base}
SDXL, REFINER = {1: 10, 2: 60}, {1: 20, 2: 20, 3: 4}


@pytest.fixture(scope="module", params=UNETS)
def unet(request):
    built = UNETS[request.param]()
    built.geometry = REFINER if "refiner" in request.param else SDXL
    return built


def test_blocks_by_level(unet):
    with accelerated(unet, TokenMerging()) as accelerator:
        assert Counter(site.level for site in accelerator.sites) == unet.geometry
        assert accelerator.sites[0].level == 1
        assert Counter(site.place for site in accelerator.sites)["mid"] == (4 if unet.geometry is REFINER else 10)


@pytest.mark.parametrize("max_downsample", [2, 8])
def test_the_limit_counts_from_the_finest_level_with_attention(unet, max_downsample):
    """On a small grid; the limit does not depend on sizes. The least limit is counted below."""
    expected = sum(blocks for level, blocks in unet.geometry.items() if 2 ** (level - 1) <= max_downsample)
    with accelerated(unet, TokenMerging(sx=1, max_downsample=max_downsample)) as accelerator:
        models.call(unet, models.inputs(rows=1))
    method = accelerator.report().as_dict()["methods"][0]
    assert method["layers"] == method["layer_calls"] == expected


def test_agents_at_1024_pixels(unet):
    """At the finest level alone: a grid of 64x64, in every block of it."""
    given = models.inputs(rows=1, h=LATENT, w=LATENT)
    tokens = []
    with accelerated(unet, AgentAttention(window=(0, 1))) as accelerator:
        handle = accelerator.sites[0].part("attn1").register_forward_pre_hook(lambda _, args, kwargs: tokens.append(args), with_kwargs=True)
        out = models.call(unet, given)
        handle.remove()
    method = accelerator.report().as_dict()["methods"][0]
    assert torch.isfinite(out).all()
    assert method["layers_by_effect"] == {"agents": unet.geometry[1], "merging": unet.geometry[1]}
    assert method["tokens_in"] == unet.geometry[1] * 64 * 64
    assert method["tokens_run"] == unet.geometry[1] * (64 * 64 - int(64 * 64 * 0.4))
