"""Steps whose rows come in calls apart, of which some were left out before: a picture is served in all of its calls or in none."""

import guided
import models
import pytest
from guided import COND, UNCOND, account

from lib_accel import DeepCache, Forecast, GuidanceSkip, accelerated

TOTAL = 20
LEVELS = (*(14.6 * 0.75**step for step in range(TOTAL)), 0.0)
FREE = Forecast(tolerance=1000, largest_gap=2)
SKIP = GuidanceSkip(when="after", after=0.2, reuse=True, every=3)


def drawn(methods, apart, rows_at=lambda step: (COND, UNCOND)):
    """(the rows of every step and how many of them ran, the report) where a host asks which rows to run, as the WebUI does."""
    unet, steps = models.ldm_unet(), []
    ran = guided.rows_run(unet)
    with accelerated(unet, *methods, auto=False) as accelerator:
        for step in range(TOTAL):
            told = {"guidance": 3.0, "sigma": LEVELS[step], "sampler": "Euler", "sigmas": LEVELS}
            rows, before = rows_at(step), len(ran)
            accelerator.step(step, TOTAL, rows, **told)
            plan = accelerator.row_plan(adds_direction=True)
            if plan is not None:
                rows = tuple(rows[kept] for kept in plan.keep)
                accelerator.step(step, TOTAL, rows, dropped=True, **told)
            for call in [[row] for row in rows] if apart else [rows]:
                models.call(unet, guided.given_to(call, 999 * LEVELS[step] / 14.6))
            steps.append((len(rows), sum(ran[before:])))
        return steps, accelerator.report().as_dict()["methods"][0]


@pytest.mark.parametrize(
    ("methods", "rows_at"),
    [((FREE, SKIP), lambda step: (COND, UNCOND)), ((FREE,), lambda step: (COND,) if step % 2 else (COND, UNCOND))],
    ids=["kept direction", "the host skips it in every second step"],
)
def test_a_forecast_half_is_never_guided_by_one_that_ran(methods, rows_at):
    together, _ = drawn(methods, False, rows_at)
    apart, told = drawn(methods, True, rows_at)
    assert apart == together and all(ran in (0, rows) for rows, ran in apart)
    assert told["served"][0]["steps"] == [step for step, (_, ran) in enumerate(apart) if not ran]


def test_shallow_halves_are_never_guided_by_whole_ones():
    deep = DeepCache(every=2, warm_up=0.2)
    (_, together), (_, apart) = (drawn((deep, SKIP), way) for way in (False, True))
    assert (apart["shallow_steps"], apart["rows_shallow"]) == (together["shallow_steps"], together["rows_shallow"])
    assert together["shallow_steps"]


def test_a_step_that_ran_for_some_rows_is_not_told_as_forecast():
    """A negative prompt that comes in late, which nobody told before the first call was forecast."""
    unet = models.ldm_unet()
    with accelerated(unet, Forecast(every=2)) as accelerator:
        for step in range(12):
            told = {"guidance": 3.0, "sigma": LEVELS[step], "sampler": "Euler", "sigmas": LEVELS}
            for rows in [(COND,), *([(UNCOND,)] if step >= 7 else [])]:
                accelerator.step(step, TOTAL, rows, **told)
                models.call(unet, guided.given_to(rows, 999 * LEVELS[step] / 14.6))
    served = account(accelerator)["served"][0]["steps"]
    assert served and 7 not in served
