"""Spectrum as a peer: its plan, and that it leaves nothing behind."""

import models
import torch
from guided import rows_run

from lib_accel.cli.lab import PEERS


def test_its_plan_with_defaults():
    """Six steps, then every other one, then the last tenth: 14 of 20."""
    assert PEERS["spectrum"].kinds(20) == [(0, 14), (6, 6)]
    assert PEERS["spectrum"].kinds(5) == [(0, 5)]


def test_steps_are_left_out_and_nothing_stays():
    pipe = models.pipeline(schedule="EulerDiscreteScheduler")
    plain, ran = models.picture(pipe, 10), rows_run(pipe.unet)
    with PEERS["spectrum"].apply(pipe):
        served = models.picture(pipe, 10)
    assert len(ran) == 8 and torch.isfinite(served).all() and not torch.equal(served, plain)
    assert "forward" not in vars(pipe.unet) and torch.equal(models.picture(pipe, 10), plain)
