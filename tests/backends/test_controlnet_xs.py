"""ControlNet-XS: a U-Net and its control in one model, whose blocks name their parts in another way."""

from collections import Counter

import models
import pytest
import torch

from lib_accel import TokenDownsampling, TokenMerging, accelerated

diffusers = pytest.importorskip("diffusers")


def unet():
    base = models.diffusers_unet(layers_per_block=2)
    control = diffusers.ControlNetXSAdapter.from_unet(base, block_out_channels=(16, 16, 16))
    return diffusers.UNetControlNetXSModel.from_unet(base, control).eval()


def test_blocks_are_at_their_levels():
    """Down and up alike: two of the U-Net and two of the control, then three of the U-Net; one of each in the middle."""
    with accelerated(unet(), TokenMerging()) as accelerator:
        assert Counter((site.place, site.level) for site in accelerator.sites) == {
            ("down", 0): 4,
            ("down", 1): 4,
            ("mid", 2): 2,
            ("up", 1): 3,
            ("up", 0): 3,
        }


@pytest.mark.parametrize(
    ("method", "layers"), [(TokenMerging(), 7), (TokenMerging(max_downsample=2), 14), (TokenDownsampling(deeper_factor=2), 14)], ids=str
)
def test_methods_act_at_the_levels_that_they_say(method, layers):
    model, given = unet(), models.inputs()
    picture = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), accelerated(model, method, auto=False) as accelerator:
        model(given.latents, given.timestep, given.text, controlnet_cond=picture)
    assert accelerator.report().as_dict()["methods"][0]["layers"] == layers
