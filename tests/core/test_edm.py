"""EDM's schedulers: what they make of a prediction and what we take it for are the same."""

import diffusers
import pytest
import torch

from lib_accel.core.noise_view import NoiseView


class Holder:
    def __init__(self, scheduler):
        self.scheduler = scheduler


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_predictions_are_read_as_the_scheduler_reads_them(name, prediction):
    scheduler = getattr(diffusers, name)(prediction_type=prediction)
    scheduler.set_timesteps(6)
    view = NoiseView(holder := Holder(scheduler))
    data = scheduler.config.sigma_data
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas):
        x, predicted = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        latents = scheduler.precondition_inputs(sigma * x, sigma)
        picture = scheduler.precondition_outputs(sigma * x, predicted, sigma)
        noise = view.at(float(timestep))
        torch.testing.assert_close(data * noise.as_picture(predicted, latents), picture, atol=1e-4, rtol=1e-3)
        epsilon = (sigma * x - picture) / sigma
        torch.testing.assert_close(noise.as_epsilon(predicted, latents), epsilon, atol=1e-3, rtol=1e-3)
        moved = noise.as_epsilon(predicted + noise.per_derivative * 0.1, latents)
        torch.testing.assert_close(moved, epsilon + 0.1, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(noise.from_derivative(epsilon, latents), predicted, atol=1e-1, rtol=1e-2)
    assert holder.scheduler is scheduler
