"""The course of a pass as methods are told of it: every part once, however the host batches and whatever it asks."""

from dataclasses import dataclass

import guided
import models
import pytest
import torch
from guided import COND, PAIR, UNCOND

from lib_accel import GuidanceSkip, Row, RowPlan, TGate, accelerated
from lib_accel.core.rows import Layout, without_guidance
from lib_accel.engine.contract import Runner
from lib_accel.engine.row_plans import plan_rows

both = pytest.mark.parametrize("kind", models.BOTH)
AND = (Row("cond", 0, 0, 0.7), Row("cond", 0, 1, 0.3), UNCOND)


@dataclass(frozen=True)
class Diary:
    """Settings of a method that writes down what it is told, and drops the unconditional rows from the step ``drops`` on."""

    drops: int = 1000
    window: tuple = (0.0, 1.0)

    def runner(self):
        return DiaryRunner(self)


class DiaryRunner(Runner):
    def __init__(self, config):
        super().__init__(config)
        self.told = []

    def begin_pass(self, moment):
        self.told.append("pass")

    def begin_step(self, moment):
        self.told.append(moment.step.index)

    def begin_call(self, moment):
        self.told.append("call")

    def drop_rows(self, moment):
        return without_guidance(moment.rows)[0] if moment.step.index >= self.config.drops else None

    def end_call(self, moment, prediction, ran):
        assert len(prediction) == len(moment.rows) == len(moment.sample)
        self.told.append("".join(moment.rows[row].role[0] for row in ran))

    def end_step(self):
        self.told.append(".")

    def end_pass(self):
        self.told.append("end")


def diary(accelerator, index=0):
    return accelerator._runners[index].told


@both
@pytest.mark.parametrize(
    ("calls", "told"),
    [((PAIR,), ["call", "uc"]), (((COND,), (UNCOND,)), ["call", "c", "call", "u"]), ((AND[:2], AND[2:]), ["call", "cc", "call", "u"])],
    ids=["together", "apart", "AND"],
)
def test_each_part_once(kind, calls, told):
    unet = models.UNETS[kind]()
    with accelerated(unet, Diary()) as accelerator:
        for _ in range(2):
            guided.passes(unet, accelerator, 2, calls)
    whole = ["pass", 0, *told, ".", 1, *told, ".", "end"]
    assert diary(accelerator) == whole * 2


@both
def test_steps_that_only_timesteps_tell(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, Diary(), Diary(window=(0.5, 1.0))) as accelerator:
        for timestep in (900, 900, 300, 950):
            models.call(unet, models.inputs(timestep=timestep))
    assert diary(accelerator) == [
        "pass",
        0,
        "call",
        "uu",
        "call",
        "uu",
        ".",
        1,
        "call",
        "uu",
        ".",
        "end",
        "pass",
        0,
        "call",
        "uu",
        ".",
        "end",
    ]
    assert diary(accelerator, 1) == ["pass", 1, "call", "uu", ".", "end", "pass", "end"]


@both
def test_a_host_that_asks_first(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, Diary(drops=1)) as accelerator:
        accelerator.step(0, 2, PAIR)
        assert accelerator.row_plan() is None
        guided.step(unet, accelerator, 0, 2)
        accelerator.step(1, 2, PAIR)
        assert accelerator.row_plan() == RowPlan((1,), (0, 0))
        guided.step(unet, accelerator, 1, 2, ((COND,),), dropped=True)
    assert diary(accelerator) == ["pass", 0, "call", "uc", ".", 1, "call", "c", ".", "end"]


@pytest.mark.parametrize("schedule", ["DDIMScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler"])
def test_a_pipeline(schedule):
    pipe = models.pipeline(schedule=schedule)
    with accelerated(pipe, Diary()) as accelerator:
        models.picture(pipe, steps=3)
        models.picture(pipe, steps=3)
    told = diary(accelerator)
    assert told.count("pass") == told.count("end") == 2
    steps = [one for one in told if isinstance(one, int)]
    assert steps == sorted(set(steps)) * 2 and told.count(".") == len(steps)
    assert told.count("call") == told.count("uc") == accelerator.report().as_dict()["unet_calls"]


@both
def test_errors_end_no_call(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, Diary()) as accelerator:
        for error in (ValueError, KeyboardInterrupt, None):
            handle = unet.register_forward_hook(lambda *_, error=error: (_ for _ in ()).throw(error()) if error else None)
            layer = unet.get_submodule("time_embed" if kind == "ldm" else "time_embedding")
            inner = layer.register_forward_hook(lambda *_, error=error: (_ for _ in ()).throw(error()) if error else None)
            if error:
                with pytest.raises(error):
                    guided.step(unet, accelerator, 0, 2)
            else:
                guided.step(unet, accelerator, 0, 2)
            inner.remove()
            handle.remove()
    assert diary(accelerator) == ["pass", 0, "call", "call", "call", "uc", ".", "end"]


@both
def test_a_call_inside_a_call(kind):
    unet = models.UNETS[kind]()
    with accelerated(unet, Diary(drops=1), TGate(gate_step=1)) as accelerator:
        guided.step(unet, accelerator, 0, 2)
        plain, inner = type(unet).forward, []

        def forward(*args, **kwargs):
            if not inner:
                inner.append(True)
                unet(*args, **kwargs)
            return plain(unet, *args, **kwargs)

        unet.forward = forward
        guided.step(unet, accelerator, 1, 2)
        del unet.forward
    assert diary(accelerator) == ["pass", 0, "call", "uc", ".", 1, "call", "c", ".", "end"]


@both
def test_rows_that_ran_are_shown_to_everyone(kind):
    """Whoever dropped the others; what they were filled with is nobody's lesson."""
    unet = models.UNETS[kind]()
    with accelerated(unet, Diary(), TGate(gate_step=2), Diary()) as accelerator:
        guided.passes(unet, accelerator, 4)
    for index in (0, 2):
        assert [one for one in diary(accelerator, index) if one in ("uc", "c")] == ["uc", "uc", "c", "c"]


# -- rows that several methods drop ---------------------------------------------------------------------------------------------

TWO = Layout.guided(4)


@dataclass(frozen=True)
class Drops:
    plan: RowPlan
    window: tuple = (0.0, 1.0)

    def runner(self, changes=False):
        runner = Runner(self)
        runner.drop_rows = lambda moment: self.plan
        runner.changes_fill = changes
        return runner


def composed(*runners):
    from types import SimpleNamespace

    moment = SimpleNamespace(rows=TWO, dropped=False, guided_because=None, obstacle=lambda: None)
    forward, backward = plan_rows(runners, moment), plan_rows(runners[::-1], moment)
    assert forward == backward
    return forward


def test_what_either_drops_goes():
    one, other = Drops(RowPlan((1, 2, 3), (1, 0, 1, 2))).runner(), Drops(RowPlan((0, 2, 3), (0, 2, 1, 2))).runner()
    plan, owners = composed(one, other)
    assert plan == RowPlan((2, 3), (0, 1, 0, 1))
    assert dict(owners) == {one: (0,), other: (1,)}


def test_the_same_rows_are_dropped_once_and_stay_as_they_are_filled():
    both_rows = RowPlan((2, 3), (0, 1, 0, 1))
    adds, leaves = Drops(both_rows).runner(changes=True), Drops(both_rows).runner()
    assert composed(adds, leaves) == (both_rows, ((leaves, (0, 1)),))


def test_rows_that_others_are_filled_from_stay():
    cond, uncond = Drops(RowPlan((2, 3), (0, 1, 0, 1))).runner(), Drops(RowPlan((0, 1), (0, 1, 0, 1))).runner()
    plan, owners = composed(cond, uncond)
    assert plan == RowPlan((0, 1), (0, 1, 0, 1)) and dict(owners) == {uncond: (2, 3)}


@both
def test_the_order_of_methods_decides_nothing(kind):
    unet = models.UNETS[kind]()
    methods = (GuidanceSkip(when="after", after=0.3, reuse=True, every=2), TGate(gate=0.6, cache="mean"), GuidanceSkip(threshold=0.1))
    pictures = []
    for order in (methods, methods[::-1]):
        with accelerated(unet, *order) as accelerator:
            out = guided.passes(unet, accelerator, 8)
        pictures.append(torch.stack([step[row.key] for step in out for row in PAIR]))
    assert torch.equal(*pictures)


def test_evaluations_of_a_step():
    class Noter(Runner):
        window = (0.0, 1.0)

        def begin_call(self, moment):
            self.told.append(moment.evaluation)

    class Settings:
        def runner(self):
            runner = Noter(Diary())
            runner.told = []
            return runner

    for schedule, expected in (("HeunDiscreteScheduler", [0, 1, 0, 1, 0]), ("EulerDiscreteScheduler", [0, 0, 0])):
        pipe = models.pipeline(schedule=schedule)
        with accelerated(pipe, Settings()) as accelerator:
            models.picture(pipe, steps=3)
        assert diary(accelerator) == expected
    unet = models.ldm_unet()
    with accelerated(unet, Settings()) as accelerator:
        guided.step(unet, accelerator, 0, 2)
        guided.step(unet, accelerator, 1, 2, evaluation=1)
    assert diary(accelerator) == [0, 1]
