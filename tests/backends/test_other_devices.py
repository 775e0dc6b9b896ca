"""What is read of schedulers and models whose tensors lie on a GPU."""

import diffusers
import models
import pytest
import torch
from other_device import Elsewhere, moved, on_device

from lib_accel import Forecast, accelerated
from lib_accel.backends.noise_levels import levels_of
from lib_accel.core.noise_view import NoiseView

FREE = Forecast(tolerance=1000, largest_gap=1, last=1)
PICTURE = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler", "LCMScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_levels_wherever_the_scheduler_keeps_its_table(name):
    """Adding noise leaves the table on the latents' device; schedulers of flow matching make their levels there."""
    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(8)
    levels = levels_of(scheduler)
    table = "sigmas" if "Flow" in name else "alphas_cumprod"
    setattr(scheduler, table, on_device(getattr(scheduler, table)))
    assert levels_of(scheduler) == levels is not None


def test_the_noise_of_a_model_whose_table_is_on_a_gpu():
    model = models.latent_diffusion(models.ldm_unet())
    model.alphas_cumprod = torch.linspace(0.999, 0.01, 1000)
    sigma = NoiseView(model).at(500.0).sigma
    model.alphas_cumprod = on_device(model.alphas_cumprod)
    assert NoiseView(model).at(500.0).sigma == sigma > 0


def test_image_to_image_with_ddim_on_a_gpu():
    made = []
    for elsewhere in (False, True):
        pipe = models.pipeline(kind="StableDiffusionImg2ImgPipeline", schedule="DDIMScheduler")
        if elsewhere:
            moved(pipe.unet), moved(pipe.vae)
        with accelerated(pipe, FREE) as accelerator, Elsewhere(elsewhere):
            picture = models.picture(pipe, steps=10, image=PICTURE, strength=0.8)
        made.append((picture.cpu(), accelerator.report().as_dict()["methods"][0]["served"]))
    assert torch.equal(made[0][0], made[1][0]) and made[0][1] == made[1][1] != []
