"""What a U-Net predicts, turned into noise, into what samplers step by, and into a picture, and back."""

import itertools
import math

import pytest
import torch

from lib_accel.core.noise import Noise, sigma_of_flow
from lib_accel.core.noise_view import NoiseView
from lib_accel.core.row_history import RowHistory
from lib_accel.core.rows import Row

KINDS = ("epsilon", "v", "sample", "flow")


def parts(mixed, sigma):
    """(signal, noise) of latents, by definition: at one sigma their ratio is the same."""
    total = 1 + sigma if mixed == "flow" else math.hypot(1, sigma)
    return 1 / total, sigma / total


def predicted(kind, signal, noise, x0, eps):
    """What a model of ``kind`` predicts, by definition."""
    return {"epsilon": eps, "v": signal * eps - noise * x0, "-v": noise * x0 - signal * eps, "sample": x0, "flow": eps - x0}[kind]


def latents(kind, sigma, dtype=torch.float64, mixed=None):
    """(x, the prediction of ``kind``, eps, x0, what latents change by per level), from their definitions."""
    mixed = mixed or ("flow" if kind == "flow" else "vp")
    generator = torch.Generator().manual_seed(3)
    x0, eps = (torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    signal, noise = parts(mixed, sigma)
    x = signal * x0 + noise * eps
    derivative = (x - x0) / noise if mixed == "flow" else (x / signal - x0) / sigma
    return tuple(value.to(dtype) for value in (x, predicted(kind, signal, noise, x0, eps), eps, x0, derivative))


@pytest.mark.parametrize("sigma", [0.03, 0.7, 9.0])
@pytest.mark.parametrize("mixed", ["vp", "flow"])
@pytest.mark.parametrize("kind", [*KINDS, "-v"])
def test_every_kind_of_prediction_says_the_same(kind, mixed, sigma):
    x, prediction, eps, x0, derivative = latents(kind, sigma, mixed=mixed)
    noise = Noise(kind, sigma, mixed)
    torch.testing.assert_close(noise.as_epsilon(prediction, x), eps)
    torch.testing.assert_close(noise.as_picture(prediction, x), x0)
    torch.testing.assert_close(noise.as_derivative(prediction, x), derivative)
    torch.testing.assert_close(noise.from_derivative(derivative, x), prediction)
    torch.testing.assert_close(noise.from_picture(x0, x), prediction)
    moved = noise.as_derivative(prediction + noise.per_derivative * 0.1, x)
    torch.testing.assert_close(moved, derivative + 0.1)


def toy(x, signal, noise):
    """(picture, noise) as a perfect model of two pictures, all 1.5 and all -0.5, finds them in latents ``x``: a curved trajectory."""
    places = torch.tensor([1.5, -0.5], dtype=torch.float64)
    off = torch.stack([(x - signal * place).square() for place in places]) / (2 * noise**2)
    x0 = (torch.softmax(-off, 0) * places.view(-1, *[1] * x.ndim)).sum(0)
    return x0, (x - signal * x0) / noise


@pytest.mark.parametrize("mixed", ["vp", "flow"])
def test_models_of_one_trajectory_are_forecast_alike(mixed):
    """Six steps of Euler, and what is forecast of the seventh: the same picture, whatever the model predicts; and nearer than a repeat."""
    sigmas = [9.0, 6.5, 4.5, 3.0, 2.0, 1.4, 1.0]
    forecasts = []
    for kind in KINDS:
        z, history = 9.0 * torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64), RowHistory(depth=2)
        for sigma, after in itertools.pairwise(sigmas):
            signal, noise = parts(mixed, sigma)
            x, told = signal * z, Noise(kind, sigma, mixed)
            x0, eps = toy(x, signal, noise)
            history.put("output", [Row("cond")], told.as_derivative(predicted(kind, signal, noise, x0, eps), x), told.along)
            z = z + (after - sigma) * eps
        signal, noise = parts(mixed, 1.0)
        x, told = signal * z, Noise(kind, 1.0, mixed)
        prediction = told.from_derivative(history.at("output", [Row("cond")], told.along, 1), x)
        forecasts.append(told.as_picture(prediction, x))
        held = told.as_picture(told.from_derivative(history.at("output", [Row("cond")]), x), x)
        truth, _ = toy(x, signal, noise)
        assert 2 * (forecasts[-1] - truth).square().mean() < (held - truth).square().mean()
    for other in forecasts[1:]:
        torch.testing.assert_close(other, forecasts[0], rtol=1e-12, atol=1e-12)


def test_latents_of_both_kinds_are_forecast_alike():
    """Where the noise that a model predicts changes with sigma along a line, so does the velocity along what it is continued along."""
    first, second, x0 = torch.randn(3, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    eps, z = (lambda sigma: first + sigma * second), (lambda sigma: x0 + sigma * first + sigma**2 / 2 * second)
    found = []
    for mixed in ("vp", "flow"):
        for kind in KINDS:
            history = RowHistory(depth=2)
            for sigma in (3.0, 2.0):
                signal, noise = parts(mixed, sigma)
                told, picture = Noise(kind, sigma, mixed), z(sigma) - sigma * eps(sigma)
                prediction = predicted(kind, signal, noise, picture, eps(sigma))
                history.put("output", [Row("cond")], told.as_derivative(prediction[None], signal * z(sigma)[None]), told.along)
            told, x = Noise(kind, 1.0, mixed), parts(mixed, 1.0)[0] * z(1.0)[None]
            prediction = told.from_derivative(history.at("output", [Row("cond")], told.along, 1), x)
            found.append(told.as_picture(prediction, x)[0])
    for one in found:
        torch.testing.assert_close(one, z(1.0) - eps(1.0), rtol=1e-12, atol=1e-12)


def test_pure_noise_is_where_flow_matching_begins():
    """Sigma is infinite there: what holds is told, what does not is None, and nothing is not a number."""
    x, v = torch.ones(1, 4, 2, 2), torch.full((1, 4, 2, 2), 3.0)
    noise = Noise("flow", math.inf)
    assert (noise.signal, noise.noise, noise.level, noise.per_derivative) == (0, 1, 1, 1)
    assert torch.equal(noise.as_derivative(v, x), v) and torch.equal(noise.from_derivative(v, x), v)
    assert torch.equal(noise.as_picture(v, x), x - v) and torch.equal(noise.as_epsilon(v, x), x)
    blind = Noise("epsilon", math.inf, "flow")
    assert blind.as_derivative(x, x) is None and blind.as_picture(x, x) is None
    assert sigma_of_flow(1.0) == math.inf and sigma_of_flow(0.75) == 3.0 and sigma_of_flow(0.0) == 0.0


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
    assert Noise("flow").as_epsilon(x, x) is None and Noise("sample").per_derivative is None
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
    assert NoiseView(pipeline).at(250.0) == Noise("flow", 1 / 3, "flow")
    pipeline.scheduler = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    assert NoiseView(pipeline).kind == "flow" and NoiseView(pipeline).at(1000.0).sigma == math.inf
    pipeline.scheduler = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="sample")
    assert NoiseView(pipeline).at(250.0) == Noise("sample", 1 / 3, "flow")
    pipeline.scheduler = diffusers.EulerDiscreteScheduler(prediction_type="v_prediction")
    assert NoiseView(pipeline).kind == "v"
