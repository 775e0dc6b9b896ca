"""Which calls may be served: against the formulas written down again, and by what decides them."""

import json
import math
from pathlib import Path

import pytest
import torch

from lib_accel.core.error_control import ErrorControl, growth_of_error
from lib_accel.core.forecasting import Control
from lib_accel.core.samplers import SAMPLERS

LEVELS = json.loads((Path(__file__).parents[1] / "data/samplers/webui.json").read_text(encoding="utf-8"))["schedules"]
KARRAS = LEVELS["Karras"]["25"]


def control(name="DPM++ 2M", sigmas=KARRAS, tolerance=0.04, gap=2):
    sampler = SAMPLERS[name]
    return ErrorControl(sampler, sigmas, Control(tolerance, gap), sampler.forecasting.order)


def expected_again(name, sigmas, levels, error, j):
    """The expected error, from the specification's formulas, in another shape. levels: of the last calls, the newest last."""
    s, n = [float(x) for x in sigmas], len(sigmas) - 1

    def h(k):
        return math.log(s[k] / s[k + 1])

    def part(k, times):
        return 1 - math.exp(-times * h(k)) if s[k + 1] else 1.0

    if name in ("Euler", "DDIM"):
        gain = 1 - s[j + 1] / s[j]
    elif name == "Euler a":
        up = math.sqrt(s[j + 1] ** 2 * (s[j] ** 2 - s[j + 1] ** 2)) / s[j] if s[j + 1] else 0.0
        gain = 1 - math.sqrt(s[j + 1] ** 2 - up**2) / s[j]
    else:
        times = 2 if name == "DPM++ 2M SDE" else 1
        if s[j + 1] == 0:
            gain = 1.0
        else:
            gain = part(j, times) * (1 + h(j) / (2 * h(j - 1)))
            if j + 2 <= n and s[j + 2] > 0:
                gain += part(j + 1, times) * h(j + 1) / (2 * h(j))
    i, a = levels[-1], levels[-2]
    if name == "Euler a":
        return error * math.sqrt((i - s[j]) / (a - i)) * gain
    if name == "DPM++ 2M SDE":
        return error * (i - s[j]) / (a - i) * gain
    b = levels[-3]
    return error * (s[j] - i) * (s[j] - a) / ((i - a) * (i - b)) * s[j] * gain


@pytest.mark.parametrize("schedule", ["Karras", "Uniform", "KL Optimal", "Beta"])
@pytest.mark.parametrize("name", ["Euler", "DDIM", "DPM++ 2M", "UniPC", "Euler a", "DPM++ 2M SDE"])
def test_the_expected_error_is_that_of_the_formulas(name, schedule):
    sigmas = LEVELS[schedule]["25"]
    made = control(name, sigmas)
    for step in (6, 7, 9):
        made.ran(step, 0.03)
    for j in range(10, len(sigmas) - 1):
        again = expected_again(name, sigmas, [sigmas[6], sigmas[7], sigmas[9]], 0.03, j)
        assert made.expected(j) == pytest.approx(again, rel=1e-12)


def simulated(name, sigmas, errors, tolerance, gap, warm_up):
    """A pass again, in the specification's own words: which steps run."""
    runs, levels, last_error = [], [], None
    step = 0
    while step < len(sigmas) - 1:
        runs.append(step)
        levels.append(sigmas[step])
        last_error = errors[step]
        total, served = 0.0, 0
        step += 1
        while step < len(sigmas) - 1 and step >= warm_up and served < gap:
            total += expected_again(name, sigmas, levels, last_error, step)
            if total > tolerance:
                break
            served, step = served + 1, step + 1
    return runs


@pytest.mark.parametrize("name", ["Euler", "DPM++ 2M", "Euler a", "DPM++ 2M SDE"])
@pytest.mark.parametrize(("tolerance", "gap"), [(0.02, 1), (0.02, 2), (0.08, 3)])
def test_a_pass_is_decided_as_specified(name, tolerance, gap):
    generator = torch.Generator().manual_seed(5)
    errors = (0.05 * torch.rand(25, generator=generator, dtype=torch.float64) * torch.tensor(KARRAS[:25])).tolist()
    made, runs = control(name, tolerance=tolerance, gap=gap), []
    for step in range(25):
        if step >= 6 and made.may_serve(step):
            made.served(step)
        else:
            runs.append(step)
            made.ran(step, errors[step])
    assert runs == simulated(name, KARRAS, errors, tolerance, gap, 6)
    assert 6 < len(runs) < 25


def test_errors_of_a_line_grow_as_the_remainder_of_interpolation():
    """A parabola is off by exactly that."""

    def line(x, a, b):
        return a * a + (x - a) / (a - b) * (a * a - b * b)

    b, a, i, j = 5.0, 4.0, 3.5, 2.0
    at_run, further = i * i - line(i, a, b), j * j - line(j, i, a)
    assert growth_of_error(j, (i, a, b), 1) == pytest.approx(further / at_run)


def test_where_nothing_is_known_nothing_is_served():
    made = control()
    assert made.expected(8) == math.inf and not made.may_serve(8)
    made.ran(0, None)
    made.ran(1, 0.0)
    assert not made.may_serve(2)  # Two calls: no line was compared yet.
    made.ran(2, None)
    assert not made.may_serve(3)
    made.ran(3, 0.0)
    assert made.may_serve(4)


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_a_damaged_error_serves_nothing(error):
    made = control(tolerance=1e9)
    for step in (5, 6, 7):
        made.ran(step, error)
    assert not made.may_serve(8)


def test_a_first_level_without_end_serves_nothing():
    sigmas = [math.inf, *KARRAS[1:]]
    made = control(sigmas=sigmas, tolerance=1e9)
    for step in (0, 1, 2):
        made.ran(step, 0.0)
    assert not made.may_serve(3)


def test_calls_at_one_level_serve_nothing():
    assert growth_of_error(1.0, (2.0, 2.0, 3.0), 1) == math.inf
    assert growth_of_error(1.0, (2.0, 2.0), 0) == math.inf


def test_the_largest_gap_is_kept():
    made = control(tolerance=100.0, gap=2)
    for step in (5, 6, 7):
        made.ran(step, 1e-9)
    for step in (8, 9):
        assert made.may_serve(step)
        made.served(step)
    assert not made.may_serve(10)
    made.ran(10, 1e-9)
    assert made.may_serve(11)


def test_what_was_spent_is_counted_until_a_call_runs():
    made = control(tolerance=1.0, gap=9)
    for step in (5, 6, 7):
        made.ran(step, 0.5)
    each = made.expected(8)
    made = control(tolerance=1.5 * each, gap=9)
    for step in (5, 6, 7):
        made.ran(step, 0.5)
    assert made.may_serve(8)
    made.served(8)
    assert not made.may_serve(9)


def test_an_error_is_read_only_when_it_decides():
    """So that a GPU is not waited for in steps that always run."""

    class Unread:
        def __float__(self):
            raise AssertionError("read too early")

    made = control()
    for step in range(6):
        made.ran(step, Unread())
    with pytest.raises(AssertionError, match="read too early"):
        made.may_serve(6)
