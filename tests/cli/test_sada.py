"""SADA as a peer: when it skips, that what it serves follows its rule, and that it leaves nothing behind."""

import models
import pytest
import torch
from guided import rows_run

from lib_accel.cli.errors import CommandError
from lib_accel.cli.lab import PEERS


def _run(steps):
    from lib_accel_lab.sada import _Run

    return _Run(steps)


def test_its_plan_at_fifty_steps():
    """Nothing is skipped before step 10 or after 47; from step 24 on all but every fourth, once four pictures are kept."""
    run = _run(50)
    assert [step for step in range(24) if run.how(step, True)] == list(range(10, 24))
    assert not any(run.how(step, False) for step in range(50))
    run.kept = [(13, 0), (17, 0), (21, 0), (25, 0)]
    assert [step for step in range(24, 50) if run.how(step, False)] == [s for s in range(24, 47) if s % 4]
    run.in_a_row = 4
    assert not any(run.how(step, True) for step in range(50))


def test_the_cubic_goes_through_what_was_kept():
    from lib_accel_lab.sada import _cubic

    kept = [(step, torch.tensor([step**3 - 2.0 * step], dtype=torch.float64)) for step in (1, 5, 9, 13)]
    assert _cubic(kept, 16).item() == pytest.approx(16**3 - 32)


@pytest.mark.parametrize("schedule", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_steps_are_left_out_and_nothing_stays(schedule):
    pipe = models.pipeline(schedule=schedule)
    plain, ran = models.picture(pipe, 24), rows_run(pipe.unet)
    with PEERS["sada"].apply(pipe):
        served = models.picture(pipe, 24)
    assert 10 < len(ran) < 24 and torch.isfinite(served).all() and not torch.equal(served, plain)
    assert not {"forward", "step"} & ({*vars(pipe.unet)} | {*vars(pipe.scheduler)})
    assert torch.equal(models.picture(pipe, 24), plain)


def test_where_it_skips_nothing_the_picture_is_the_plain_one():
    pipe = models.pipeline(schedule="EulerDiscreteScheduler")
    plain = models.picture(pipe, 3)
    with PEERS["sada"].apply(pipe):
        assert torch.equal(models.picture(pipe, 3), plain)


def test_other_samplers_are_refused():
    pipe = models.pipeline(schedule="DDIMScheduler")
    with pytest.raises(CommandError, match="Euler and DPM"), PEERS["sada"].apply(pipe):
        pass
