"""Prompts that change during a pass, and passes that end before anything may be left out: what waits, and what the line says."""

import guided
import models
import pytest
from guided import PAIR

from lib_accel import GuidanceSkip, TGate, accelerated

both = pytest.mark.parametrize("kind", models.BOTH)
NEVER = "waits for the last change of the prompts, which never comes"


def rows(unet, method, total=10, **told):
    """The rows of every step of a pass, and what the method said of itself."""
    ran = guided.rows_run(unet)
    with accelerated(unet, method) as accelerator:
        guided.passes(unet, accelerator, total, **told)
        line = str(accelerator.report())
    return ran, line, guided.account(accelerator)["notes"]


@both
@pytest.mark.parametrize(
    ("settled", "wanted"),
    [
        (0, [2, 2, 2, 1, 1, 2, 1, 1, 2, 1]),
        # Changed before: nothing was learnt from the old prompts that is used.
        (2, [2, 2, 2, 1, 1, 2, 1, 1, 2, 1]),
        # The step in which they change is guided, and its direction is kept.
        (3, [2, 2, 2, 2, 1, 1, 2, 1, 1, 2]),
        (6, [2, 2, 2, 2, 2, 2, 2, 1, 1, 2]),
        (9, [2] * 10),
    ],
)
def test_a_kept_direction_is_one_of_the_prompts_that_stay(kind, settled, wanted):
    ran, _, notes = rows(models.UNETS[kind](), GuidanceSkip(when="after", after=0.3, reuse=True, every=3), settled=settled)
    assert ran == wanted
    if settled == 9:
        assert notes == [f"guidance skipping {NEVER}"]
    else:
        assert notes == ([f"guidance skipping waits for the last change of the prompts, step {settled + 2}"] if settled > 2 else [])


@both
def test_predictions_are_alike_for_the_prompts_that_stay(kind):
    """Whatever the old ones were."""
    unet = models.UNETS[kind]()
    assert rows(unet, GuidanceSkip(threshold=0.0))[0] == [2] + [1] * 9
    assert rows(unet, GuidanceSkip(threshold=0.0), settled=4)[0] == [2] * 5 + [1] * 5
    ran, _, notes = rows(unet, GuidanceSkip(threshold=0.0), settled=9)
    assert ran == [2] * 10 and notes == [f"guidance skipping {NEVER}"]


@both
def test_what_was_learnt_from_no_prompt_waits_for_none(kind):
    unet = models.UNETS[kind]()
    assert rows(unet, GuidanceSkip(when="after", after=0.3), settled=9)[0] == [2] * 3 + [1] * 7
    interval = {"when": "outside", "sigma_low": 0.3, "sigma_high": 5}
    # A direction to keep is asked for in the first step; it is another prompt's, so guidance waits for the last change.
    for reuse, expected in ((False, [1, 1, 2, 2, 1, 1]), (True, [2, 2, 2, 2, 2, 1])):
        ran = guided.rows_run(unet)
        with accelerated(unet, GuidanceSkip(**interval, reuse=reuse)) as accelerator:
            for index, sigma in enumerate((14, 6, 4, 1, 0.2, 0.1)):
                guided.step(unet, accelerator, index, 6, sigma=sigma, settled=4)
        assert ran == expected


@both
def test_at_scale_one_prompts_may_change(kind):
    assert rows(models.UNETS[kind](), GuidanceSkip(reuse=True), 5, settled=4, guidance=1.0)[0] == [1] * 5


IDLE = [
    (TGate(gate=1), {}, "no_gate"),
    (TGate(gate_step=5), {}, "no_gate"),
    (GuidanceSkip(threshold=1.0), {}, "never_alike"),
    (GuidanceSkip(when="after", after=0.9), {}, "nothing_after"),
    (GuidanceSkip(when="outside"), {"sigma": 1.0}, "nothing_outside"),
]


@pytest.mark.parametrize(("method", "told", "why"), IDLE, ids=lambda value: value if isinstance(value, str) else "")
def test_a_method_that_never_came_to_act_says_why(method, told, why):
    unet = models.ldm_unet()
    ran = guided.rows_run(unet)
    with accelerated(unet, method) as accelerator:
        guided.passes(unet, accelerator, 5, **told)
    assert ran == [2] * 5
    (reason,) = guided.account(accelerator)["reasons"]
    assert reason["code"] == why
    assert f"{type(method).__name__}: nothing [{reason['text']}]" in str(accelerator.report())


@pytest.mark.parametrize(("method", "told"), [(TGate(gate=0.4), {}), (GuidanceSkip(when="after", after=0.4), {"settled": 9})])
def test_one_that_acted_does_not(method, told):
    """Nor after a second pass that ended before it."""
    unet = models.ldm_unet()
    with accelerated(unet, method) as accelerator:
        guided.passes(unet, accelerator, 5, **told)
        guided.passes(unet, accelerator, 1, [PAIR], **told)
        line = str(accelerator.report())
    assert "no guidance for 3 of 6 steps" in line and "no step came" not in line


def test_other_reasons_are_enough():
    _, line, notes = rows(models.ldm_unet(), TGate(gate=0.4), settled=9)
    assert notes == [f"the gate {NEVER}"] and "no step came" not in line
