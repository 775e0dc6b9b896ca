"""Served calls are counted for ever and listed for the last passes."""

from lib_accel.core import served_steps
from lib_accel.core.served_steps import ServedSteps


def test_steps_by_pass_and_picture():
    steps = ServedSteps()
    steps.add((1, 3), 0, ran=True)
    assert not steps and steps.as_list() == []
    for one in ((1, 4), (1, 6)):
        steps.add(one, 0)
    steps.add((1, 3), 1, ran=True)
    steps.add((2, 5), 0)
    assert steps and steps.before == (0, 0)
    assert steps.as_list() == [
        {"pass": 1, "picture": 0, "steps": [4, 6]},
        {"pass": 1, "picture": 1, "steps": []},
        {"pass": 2, "picture": 0, "steps": [5]},
    ]


def test_of_old_passes_the_sums_are_kept(monkeypatch):
    """Each pass: picture 0 is served in two steps, picture 1 in three."""
    monkeypatch.setattr(served_steps, "PASSES_KEPT", 4)
    steps = ServedSteps()
    for number in range(10):
        for picture in (0, 1):
            for step in range(2 + picture):
                steps.add((number, step), picture)
    assert {one["pass"] for one in steps.as_list()} == {6, 7, 8, 9}
    assert steps.before == (6 * 2, 6 * 3)


def test_that_there_were_any_is_not_forgotten(monkeypatch):
    monkeypatch.setattr(served_steps, "PASSES_KEPT", 1)
    steps = ServedSteps()
    steps.add((0, 1), 0)
    steps.add((1, 1), 0, ran=True)
    assert steps and steps.as_list() == [{"pass": 1, "picture": 0, "steps": []}]
