"""How many steps Forecast is expected to leave out, for the estimate and the strip: at the levels as measured, else by what is set."""

import pytest

from lib_accel import Forecast
from lib_accel.core.samplers import SAMPLERS


def run(sampler="Euler", steps=25, **given):
    """How many steps are expected to run."""
    return steps - sum(map(bool, Forecast(**given).schedule(steps, sampler=sampler).kinds))


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "LMS", "ER SDE"])
def test_levels_are_expected_as_they_were_measured(sampler):
    for name, level in SAMPLERS[sampler].forecasting.levels.items():
        assert abs(run(sampler, level=name) - level.calls) <= 1


def test_a_gap_that_was_set_is_counted():
    assert run(level="fast", largest_gap=1) > run(level="fast") > run(level="fast", largest_gap=8, tolerance=1.0)


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "LMS", "ER SDE"])
def test_a_tolerance_that_was_set_is_counted(sampler):
    """Alone, too: higher is faster, as far as the gap allows."""
    ran = [run(sampler, tolerance=tolerance) for tolerance in (1e-6, 0.001, 0.02, 0.2, 1000)]
    assert ran == sorted(ran, reverse=True) and ran[0] >= 24 and ran[-1] <= run(sampler)
    gap = Forecast().control(SAMPLERS[sampler]).largest_gap
    between = len(Forecast().steps_between(SAMPLERS[sampler], 25))
    assert ran[-1] == 25 - between + between // (gap + 1)


def test_a_tolerance_is_expected_as_it_was_measured():
    """With Euler 0.04 ran 13.5 of 25 steps, 0.06 13.2 (docs/benchmarks.md)."""
    assert run(tolerance=0.04) in (13, 14) and run(tolerance=0.06) == 13
    assert run(tolerance=0.2, largest_gap=4) == run(level="fast")
