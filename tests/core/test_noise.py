"""What a U-Net predicts, turned into noise, into what samplers step by, and into a picture, and back."""

import math

import pytest
import torch

from lib_accel.core.noise import Noise, NoiseView


def latents(kind, sigma, dtype=torch.float64):
    """(x, the prediction of ``kind``, eps, x0, what latents change by per sigma), from their definitions."""
    generator = torch.Generator().manual_seed(3)
    x0, eps = (torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    if kind == "flow":
        signal, noise = 1 - sigma, sigma
    else:
        signal, noise = 1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma)
    x = signal * x0 + noise * eps
    prediction = {"epsilon": eps, "v": signal * eps - noise * x0, "sample": x0, "flow": eps - x0}[kind]
    derivative = eps - x0 if kind == "flow" else (math.hypot(1, sigma) * x - x0) / sigma
    return tuple(value.to(dtype) for value in (x, prediction, eps, x0, derivative))


@pytest.mark.parametrize("sigma", [0.03, 0.7])
@pytest.mark.parametrize("kind", ["epsilon", "v", "sample", "flow"])
def test_every_kind_of_prediction_says_the_same(kind, sigma):
    x, prediction, eps, x0, derivative = latents(kind, sigma)
    noise = Noise(kind, sigma)
    torch.testing.assert_close(noise.as_epsilon(prediction, x), eps)
    torch.testing.assert_close(noise.as_picture(prediction, x), x0)
    torch.testing.assert_close(noise.as_derivative(prediction, x), derivative)
    torch.testing.assert_close(noise.from_derivative(derivative, x), prediction)
    torch.testing.assert_close(noise.from_picture(x0, x), prediction)
    moved = noise.as_epsilon(prediction + noise.per_epsilon * 0.1, x)
    torch.testing.assert_close(moved, eps + 0.1)


@pytest.mark.parametrize("kind", ["epsilon", "v", "sample"])
@pytest.mark.parametrize("sigma", [14.6, 3.0, 0.03])
def test_half_precision_is_turned_in_float32(kind, sigma):
    x, prediction, _, _, _ = latents(kind, sigma, torch.float16)
    noise = Noise(kind, sigma)
    turned = noise.as_derivative(prediction, x)
    assert turned.dtype == torch.float32
    torch.testing.assert_close(noise.from_derivative(turned, x), prediction.float(), atol=2e-3, rtol=2e-3)


def test_what_takes_an_unknown_sigma_is_none():
    x = torch.zeros(1, 4, 2, 2)
    assert Noise("epsilon").as_derivative(x, x) is not None and Noise("epsilon").from_derivative(x, x) is not None
    assert Noise("flow").as_derivative(x, x) is not None and Noise("sample").as_picture(x, x) is not None
    for kind in ("v", "sample"):
        assert Noise(kind).as_derivative(x, x) is None and Noise(kind).from_derivative(x, x) is None
    for kind in ("epsilon", "v", "flow"):
        assert Noise(kind).as_picture(x, x) is None and Noise(kind).from_picture(x, x) is None
    assert Noise("flow").as_epsilon(x, x) is None and Noise("flow").per_epsilon is None
    assert Noise("v").signal is None and Noise("v").noise is None


def test_zero_terminal_snr_loses_no_numbers():
    """At its first level, sigma in the thousands, what a v model predicts is the picture; it is turned into noise without overflow."""
    x, prediction, eps, x0, _ = latents("v", 4518.76)
    noise = Noise("v", 4518.76)
    torch.testing.assert_close(noise.as_derivative(prediction.half(), x.half()), eps.float(), atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(noise.as_picture(prediction, x), x0)


def test_schedulers_of_flow_matching_are_known():
    """By their class, or by their configuration; the noise is the timestep's part of all of them."""
    diffusers = pytest.importorskip("diffusers")

    class Pipeline:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()

    pipeline = Pipeline()
    assert NoiseView(pipeline).at(250.0) == Noise("flow", 0.25)
    pipeline.scheduler = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    assert NoiseView(pipeline).kind == "flow"
    pipeline.scheduler = diffusers.EulerDiscreteScheduler(prediction_type="v_prediction")
    assert NoiseView(pipeline).kind == "v"
