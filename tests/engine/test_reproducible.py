"""The same seed and settings give the same picture, and nobody else's random numbers are used up."""

import random

import cases
import models
import numpy as np
import pytest
import torch

from lib_accel import TokenMerging, accelerated

both = pytest.mark.parametrize("kind", models.BOTH)
every_method = pytest.mark.parametrize("method", cases.METHODS)


@both
@every_method
def test_the_same_twice(kind, method):
    unet = models.UNETS[kind]()
    pictures = []
    for _ in range(2):
        with accelerated(unet, *cases.METHODS[method]) as accelerator:
            pictures.append(models.one_pass(unet))
            accelerator.new_pass()
            pictures.append(models.one_pass(unet))
            torch.rand(1)
    assert all(torch.equal(picture, pictures[0]) for picture in pictures)


@every_method
def test_the_same_picture_twice(method):
    pipe = models.pipeline()
    with accelerated(pipe, *cases.METHODS[method]):
        pictures = [models.picture(pipe, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.allclose(pictures[0], pictures[2], atol=1e-2)


@both
@every_method
def test_the_global_generators_are_left_alone(kind, method):
    unet = models.UNETS[kind]()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    with accelerated(unet, *cases.METHODS[method]) as accelerator:
        models.one_pass(unet)
        str(accelerator.report())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert all(np.array_equal(a, b) for a, b in zip(states[2], np.random.get_state()))


@both
def test_random_destinations_change_with_the_step_and_not_with_the_pass(kind):
    unet = models.UNETS[kind]()
    given = models.inputs()
    with accelerated(unet, TokenMerging()) as accelerator:
        by_step = []
        for index in (0, 1, 0, 1):
            accelerator.step(index, 2)
            by_step.append(models.call(unet, given))
    assert torch.equal(by_step[0], by_step[2])
    assert torch.equal(by_step[1], by_step[3])
    assert not torch.equal(by_step[0], by_step[1])
