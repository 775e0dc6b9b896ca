"""Where a U-Net call stands: host before schedule before timestep; samplers with one and two evaluations; windows."""

from itertools import pairwise

import pytest
import torch
from golden import read_json
from hypothesis import given
from hypothesis import strategies as st

from lib_accel.core.rows import Layout, Row
from lib_accel.core.schedule import Step, StepClock, first_step, timestep_value

SAMPLERS = read_json("samplers/model_calls")
SIGMAS = SAMPLERS["model_call_sigmas"]
TWO_EVALUATIONS = {"sample_heun", "sample_dpm_2", "sample_dpm_2_ancestral", "sample_dpmpp_2s_ancestral", "sample_dpmpp_sde"}
ONE_EVALUATION = set(SIGMAS) - TWO_EVALUATIONS - {"sample_dpm_adaptive"}
ROWS = (Row("cond", 0), Row("cond", 1), Row("uncond", 0), Row("uncond", 1))


@pytest.mark.parametrize(
    "fraction, total, step",
    [(0.4, 25, 10), (0, 25, 0), (1, 25, 25), (0.4, 50, 20), (0.1, 30, 3), (0.7, 10, 7), (0.5, 25, 13), (0.01, 25, 1)],
)
def test_first_step(fraction, total, step):
    assert first_step(fraction, total) == step


@given(st.floats(0, 1), st.integers(1, 1000))
def test_windows_that_touch_share_every_step_between_them(fraction, total):
    for index in {0, total // 2, total - 1, min(first_step(fraction, total), total - 1)}:
        step = Step(index, total, index / total, "host")
        assert step.within((0.0, fraction)) != step.within((fraction, 1.0))


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_same_when_only_timesteps_are_known(fraction, now):
    step = Step(3, None, now, "timestep")
    halves = [step.within(window) for window in ((0.0, fraction), (fraction, 1.0)) if window[0] < window[1]]
    assert halves.count(True) == 1


def test_a_window_to_the_end_holds_steps_beyond_the_total():
    """Hosts count second-order samplers' evaluations as steps."""
    assert Step(25, 25, 1.0, "host").within((0.4, 1.0))
    assert not Step(25, 25, 1.0, "host").within((0.4, 0.9))


@pytest.mark.parametrize(
    "given_value, value",
    [
        (None, None),
        (7, 7.0),
        (torch.tensor(981), 981.0),
        (torch.tensor([981, 981]), 981.0),
        (torch.tensor([]), None),
        (torch.tensor([[0.5]]), 0.5),
    ],
)
def test_timestep_value(given_value, value):
    assert timestep_value(given_value) == value


# -- timesteps ---------------------------------------------------------------------------------------------------------------


def walk(values, clock=None):
    clock = clock or StepClock()
    return [clock.at_timestep(value) for value in values]


@pytest.mark.parametrize("sampler", sorted(ONE_EVALUATION))
def test_one_evaluation_samplers_take_a_step_per_call(sampler):
    steps = walk(SIGMAS[sampler])
    assert [step.index for step in steps] == list(range(SAMPLERS["steps"]))
    assert [step.new_pass for step in steps] == [True] + [False] * 9


@pytest.mark.parametrize("sampler", sorted(set(SIGMAS) - ONE_EVALUATION))
def test_other_samplers_never_go_back(sampler):
    steps = walk(SIGMAS[sampler])
    assert all(a.index <= b.index and a.fraction <= b.fraction for a, b in pairwise(steps))
    assert [step.new_pass for step in steps].count(True) == 1
    assert 0 <= steps[0].fraction <= steps[-1].fraction <= 1


@pytest.mark.parametrize("sampler", sorted(SIGMAS))
def test_a_second_picture_is_a_second_pass(sampler):
    clock = StepClock()
    first, second = walk(SIGMAS[sampler], clock), walk(SIGMAS[sampler], clock)
    assert first == second
    assert second[0].new_pass


def test_separate_calls_of_a_step_are_one_step():
    steps = walk([981, 981, 961, 961, 941, 941])
    assert [step.index for step in steps] == [0, 0, 1, 1, 2, 2]
    assert [step.new_pass for step in steps] == [True, False, False, False, False, False]


def test_fractions_are_of_what_the_pass_began_with():
    """img2img begins late."""
    assert [step.fraction for step in walk([400, 300, 100, 0])] == [0.0, 0.25, 0.75, 1.0]


def test_rising_timesteps_are_one_pass():
    """Inversion; a second one begins anew, and so does a picture after it."""
    clock = StepClock()
    steps = walk([1, 201, 401, 601, 801, 1, 201, 981, 961], clock)
    assert [step.index for step in steps] == [0, 1, 2, 3, 4, 0, 1, 0, 1]
    assert [step.new_pass for step in steps] == [True] + 4 * [False] + [True, False] + [True, False]
    assert [round(step.fraction, 1) for step in steps[:5]] == [0.0, 0.2, 0.4, 0.6, 0.8]


def test_no_timestep_at_all_is_one_step():
    steps = walk([None, None])
    assert [(step.index, step.fraction) for step in steps] == [(0, 0.0)] * 2


# -- schedules ---------------------------------------------------------------------------------------------------------------


def positions(clock, places, total=50):
    return [clock.at_schedule(place, total) for place in places]


def test_schedule():
    steps = positions(StepClock(), range(50))
    assert [(step.index, step.total) for step in steps] == [(i, 50) for i in range(50)]
    assert [step.new_pass for step in steps].count(True) == 1


def test_image_to_image_begins_late_and_counts_from_there():
    steps = positions(StepClock(), range(30, 50))
    assert (steps[0].index, steps[0].total, steps[0].fraction) == (0, 20, 0.0)
    assert (steps[-1].index, steps[-1].total) == (19, 20)


def test_repeated_timesteps_are_one_step():
    """PNDM repeats its second timestep, Heun lists all but the first twice."""
    assert [step.index for step in positions(StepClock(), [0, 1, 1, 2, 2, 3])] == [0, 1, 1, 2, 2, 3]


def test_a_lower_position_is_a_new_pass():
    steps = positions(StepClock(), [0, 1, 2, 0, 1])
    assert [step.new_pass for step in steps] == [True, False, False, True, False]


def test_a_schedule_may_be_gone_through_backwards():
    steps = positions(StepClock(), [3, 2, 1, 0, 3, 2], total=4)
    assert [step.new_pass for step in steps] == [True, False, False, False, True, False]
    assert [(step.index, step.total) for step in steps[1:4]] == [(1, 4), (2, 4), (3, 4)]


def test_a_new_pass_may_be_told():
    clock = StepClock()
    positions(clock, [0, 1, 2])
    clock.new_pass()
    late = clock.at_schedule(10, 50)
    assert late.new_pass and (late.index, late.total) == (0, 40)


# -- hosts -------------------------------------------------------------------------------------------------------------------


def host_steps(clock, told):
    steps = []
    for index, total in told:
        clock.tell(index, total, None)
        steps.append(clock.at_host_step())
    return steps


def test_host():
    clock = StepClock()
    assert not clock.told
    steps = host_steps(clock, [(0, 4), (1, 4), (1, 4), (3, 4), (0, 4), (1, 2)])
    assert [step.index for step in steps] == [0, 1, 1, 3, 0, 1]
    assert [step.new_pass for step in steps] == [True, False, False, False, True, True]
    assert steps[1].fraction == 0.25 and steps[1].source == "host"
    clock.new_pass()
    assert not clock.told


@pytest.mark.parametrize(
    "index, total, sentence", [(-1, 4, "step index is -1; it must be 0 or more"), (0, 0, "step total is 0; it must be 1 or more")]
)
def test_bad_steps_get_a_sentence(index, total, sentence):
    with pytest.raises(ValueError, match=sentence):
        StepClock().tell(index, total, None)


# -- rows of a step ----------------------------------------------------------------------------------------------------------


def test_rows_are_handed_out_in_order_and_anew_every_step():
    clock = StepClock()
    for index in range(2):
        clock.tell(index, 4, ROWS)
        assert clock.take_rows(2, None) == Layout(ROWS[:2])
        assert clock.take_rows(1, None) == Layout(ROWS[2:3])
        assert clock.take_rows(1, None) == Layout(ROWS[3:])


def test_more_rows_than_told_are_unknown():
    clock = StepClock()
    clock.tell(0, 4, ROWS)
    clock.take_rows(3, None)
    assert clock.take_rows(2, None) == Layout.unknown(2, offset=3)


def test_the_host_is_trusted_before_the_pipeline():
    clock = StepClock()
    assert clock.take_rows(4, Layout.guided(4)) == Layout.guided(4)
    clock.tell(0, 4, ROWS)
    assert clock.take_rows(4, Layout.guided(4)) == Layout(ROWS)


def test_unknown_rows_of_separate_calls_are_told_apart():
    clock = StepClock()
    for timestep in (981, 961):
        clock.at_timestep(timestep)
        assert clock.take_rows(2, None) == Layout.unknown(2)
        clock.at_timestep(timestep)
        assert clock.take_rows(2, None) == Layout.unknown(2, offset=2)
