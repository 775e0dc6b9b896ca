"""What a pipeline tells of a U-Net call: its step by the schedule, its rows; and who is believed when several speak."""

from dataclasses import dataclass, replace

import diffusers
import models
import pytest
import torch
from blocks import BlockUNet

from lib_accel import Row, accelerated
from lib_accel.backends.loops import Loop
from lib_accel.backends.pipeline import PipelineView
from lib_accel.core.rows import Layout
from lib_accel.core.schedule import StepClock
from lib_accel.engine.contract import Runner


class Scheduler:
    def __init__(self, timesteps):
        self.timesteps = None if timesteps is None else torch.tensor(timesteps)


class Pipeline:
    """As much of a diffusers pipeline as is looked at."""

    def __init__(self, timesteps=None, unet=None, **attributes):
        self.scheduler = Scheduler(timesteps)
        self.unet = unet
        self.__dict__.update(attributes)


def steps_of(pipeline, timesteps, clock=None, view=None):
    clock, view = clock or StepClock(), view or PipelineView(pipeline)
    return [view.step(clock, timestep) for timestep in timesteps]


@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "PNDMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "LMSDiscreteScheduler",
        "UniPCMultistepScheduler",
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "DPMSolverSDEScheduler",
        "LCMScheduler",
    ],
)
def test_real_schedulers(name):
    """Ten steps are ten, however often a scheduler evaluates in one; none goes back."""
    if "SDE" in name:
        pytest.importorskip("torchsde")
    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(10)
    pipeline = Pipeline()
    pipeline.scheduler = scheduler
    steps = steps_of(pipeline, scheduler.timesteps)
    assert [step.index for step in steps] == sorted(step.index for step in steps)
    assert {step.index for step in steps} == set(range(10))
    assert {step.total for step in steps} == {10}
    assert [step.new_pass for step in steps].count(True) == 1 and steps[0].new_pass


@pytest.mark.parametrize(
    "name, steps, settings",
    [
        ("DPMSolverMultistepScheduler", 25, {"use_exponential_sigmas": True}),
        ("DPMSolverMultistepScheduler", 50, {"use_lu_lambdas": True}),
        ("DPMSolverMultistepScheduler", 60, {"use_karras_sigmas": True}),
    ],
)
@pytest.mark.parametrize("views", [True, False])
def test_timesteps_that_are_listed_twice_are_two_steps(name, steps, settings, views):
    """Steep schedules round several places to one timestep."""
    scheduler = models.scheduler(name, **settings)
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps.unique()) < steps
    pipeline = Pipeline()
    pipeline.scheduler = scheduler
    told = steps_of(pipeline, scheduler.timesteps if views else scheduler.timesteps.tolist())
    assert [(step.index, step.total) for step in told] == [(i, steps) for i in range(steps)]


def test_inversion():
    scheduler = diffusers.DDIMInverseScheduler()
    scheduler.set_timesteps(10)
    pipeline = Pipeline()
    pipeline.scheduler = scheduler
    assert [step.index for step in steps_of(pipeline, scheduler.timesteps)] == list(range(10))
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(10)
    pipeline.scheduler = scheduler
    assert [step.index for step in steps_of(pipeline, scheduler.timesteps.flip(0))] == list(range(10))


def test_image_to_image():
    timesteps = list(range(990, -10, -20))
    steps = steps_of(pipeline := Pipeline(timesteps), timesteps[30:])
    assert [(step.index, step.total) for step in steps] == [(i, 20) for i in range(20)]
    assert pipeline.scheduler.timesteps.numel() == 50


def test_a_new_schedule_is_a_new_pass():
    """A run of four steps, then one that begins late in a schedule of fifty: its position is higher than the last."""
    pipeline = Pipeline([900, 600, 300, 0])
    clock, view = StepClock(), PipelineView(pipeline)
    steps_of(pipeline, [900, 600, 300, 0], clock, view)
    timesteps = list(range(990, -10, -20))
    pipeline.scheduler = Scheduler(timesteps)
    steps = steps_of(pipeline, timesteps[20:22], clock, view)
    assert [step.new_pass for step in steps] == [True, False]
    assert [(step.index, step.total) for step in steps] == [(0, 30), (1, 30)]


@pytest.mark.parametrize("pipeline", [Pipeline(None), Pipeline([]), Pipeline([900, 600]), object.__new__(Pipeline)])
def test_no_step_without_a_schedule_that_holds_the_timestep(pipeline):
    assert steps_of(pipeline, [torch.tensor(77)]) == [None]


def test_a_pipeline_that_is_gone():
    view = PipelineView(Pipeline([900]))
    assert view.step(StepClock(), 900) is None and isinstance(view.rows(2, None), str)


LOOP = Loop(None, "SomePipeline", direct=True, paired=True, guided=True, timesteps=None)


@pytest.mark.parametrize(
    "loop, count, rows",
    [
        (LOOP, 4, Layout.guided(4)),
        (LOOP, 3, "3 rows do not form pairs"),
        (replace(LOOP, guided=False), 2, Layout([Row("cond", 0), Row("cond", 1)])),
        (replace(LOOP, guided=False), 1, Layout([Row("cond", 0)])),
        (replace(LOOP, guided=None), 2, "SomePipeline does not tell whether it guides"),
        (replace(LOOP, paired=False), 6, "Accel does not know how SomePipeline orders its rows"),
        (replace(LOOP, direct=False), 2, "the U-Net was called outside the loop of SomePipeline"),
        (None, 2, "the U-Net was not called by the loop of a pipeline"),
    ],
)
def test_rows(loop, count, rows):
    assert PipelineView(Pipeline()).rows(count, loop) == rows


# -- who is believed -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spy:
    """A method that does nothing but note where its calls stand."""

    window: tuple = (0.0, 1.0)

    def runner(self):
        return SpyRunner(self)


class SpyRunner(Runner):
    needs_tokens = True

    def __init__(self, config):
        super().__init__(config)
        self.seen = config.__dict__.setdefault("seen", [])

    def wants(self, site, finest):
        return frozenset({"attn1"}) if site.level == finest else frozenset()

    def block_tokens(self, call, site, x):
        self.seen.append((call.step.source, call.step.index, call.step.total, [row.role for row in call.rows]))


def call(unet, timestep, rows=2):
    with torch.no_grad():
        unet(torch.zeros(rows, 32, 4, 4), torch.full((rows,), timestep), torch.zeros(rows, 7, 24))


def test_host_before_schedule_before_timestep():
    spy, unet = Spy(), BlockUNet()
    pipeline = Pipeline([900, 600, 300], unet, do_classifier_free_guidance=True)
    with accelerated(pipeline, spy) as accelerator:
        call(unet, 900)
        call(unet, 600)
        call(unet, 555)
        accelerator.step(7, 20, rows=[Row("cond"), Row("uncond")])
        call(unet, 300)
        accelerator.step(8, 20)
        call(unet, 300)
    by_hand = ["unknown", "unknown"]
    assert spy.seen == [
        ("schedule", 0, 3, by_hand),
        ("schedule", 1, 3, by_hand),
        ("timestep", 0, None, by_hand),
        ("host", 7, 20, ["cond", "uncond"]),
        ("host", 8, 20, by_hand),
    ]


def test_a_bare_unet_has_only_the_timestep():
    spy, unet = Spy(), BlockUNet()
    with accelerated(unet, spy):
        for timestep in (900, 600, 600, 999):
            call(unet, timestep)
    assert [(source, index) for source, index, _, _ in spy.seen] == [("timestep", i) for i in (0, 1, 1, 0)]
    assert spy.seen[0][3] == ["unknown"] * 2
