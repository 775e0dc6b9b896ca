"""What a running diffusers pipeline tells of a U-Net call: its step, and whose rows it holds."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch

from ..core.noise_view import NoiseView
from ..core.reasons import Reason
from ..core.rows import Layout, Row
from ..core.samplers import Sampler
from ..core.schedule import Step, StepClock, timestep_value
from .evaluations import steps_of_places
from .loops import Loop, other_model
from .noise_levels import SchedulerLevels
from .told_texts import roles_besides, roles_of, scale_of

TOO_MANY_CALLS = Reason.of("too_many_calls", "the U-Net runs more often than the schedule says")


class PipelineView:
    """A pipeline seen from its U-Net. Holds the pipeline weakly; its scheduler may be exchanged at any time.

    several: whether it may call its model more than once in a step: for either text.
    """

    def __init__(self, pipeline: Any, several: bool = False) -> None:
        self._several = several
        self._pipeline = weakref.ref(pipeline)
        self.noise = NoiseView(pipeline)
        # What the places below are places in; a new run of the pipeline has a new one.
        self._run: torch.Tensor | None = None
        self._by_hand = False
        self._schedule: torch.Tensor | None = None
        self._values: list[float] = []
        self._steps: list[int] = []
        self._last = 0
        self._levels = SchedulerLevels()
        self._place: int | None = None
        self._calls_here = 0
        self._calls_before = 1
        self._more_calls_than_scheduled = False
        # Whether the U-Net was called more often in this pass than the schedule says.
        self.tiles = False
        # Whether the call read last is the last of its pass, by the schedule.
        self.ends_pass = False

    @property
    def pipeline(self) -> Any:
        """The pipeline; None when it is gone."""
        return self._pipeline()

    def step(self, clock: StepClock, timestep: Any, loop: Loop | None = None) -> Step | None:
        """The step of a U-Net call at ``timestep``: its place in the schedule, or None when it has none.

        loop: the loop of this pipeline that the call comes from; None: it is called by hand.
        """
        self.ends_pass = False
        if not self._read_schedule(clock, loop):
            return None
        beside = loop is not None and not loop.direct
        if timestep is None and loop is not None:
            timestep = self._timestep_in(loop)
        # A call beside the loop belongs to the step that the loop is in, whatever its timestep.
        place = self._place if beside and self._place is not None else self._place_of(timestep)
        if place is None:
            self._place = None
            return None
        if not beside:
            if place != self._place:
                self._calls_before, self._calls_here = max(self._calls_here, 1), 0
            self._calls_here += 1
            self._place = place
            self._more_calls_than_scheduled = self._calls_here > 1 and not self._several
            self.tiles |= self._more_calls_than_scheduled
            self.ends_pass = place == self._last and (not self._several or self._calls_here >= self._calls_before)
        return clock.at_schedule(self._steps[place], self._steps[self._last] + 1)

    def _timestep_in(self, loop: Loop) -> Any:
        """The timestep that the loop is at, by its own variable, or by how many steps its scheduler made."""
        if loop.timestep is not None:
            return loop.timestep
        scheduler = getattr(self.pipeline, "scheduler", None)
        made = getattr(scheduler, "_step_index", None)
        made = (getattr(scheduler, "_begin_index", None) or 0) if made is None else made
        return self._schedule[made] if isinstance(made, int) and made < len(self._schedule) else None

    def read(self, timestep: Any) -> float | None:
        """The timestep's value. A view into a schedule on a GPU is known by its address, so that the GPU is not waited for."""
        if isinstance(timestep, torch.Tensor) and timestep.device.type != "cpu":
            place = self._by_address(timestep)
            if place is not None:
                return self._values[place]
        return timestep_value(timestep)

    def sampling(
        self, clock: StepClock, loop: Loop | None = None
    ) -> tuple[Sampler | None, tuple[float, ...] | None, tuple[float, float | None] | None]:
        """The sampler, the noise levels from the pass's first step on and where they end, and the guidance scale as `Moment.scales` has it;
        None for what cannot be known."""
        pipeline = self._pipeline()
        scheduler, begin = getattr(pipeline, "scheduler", None), clock.begin
        sampler, levels = self._levels.at(scheduler)
        if sampler is not None and loop is not None:
            sampler = sampler.with_eta(_eta_of(loop, sampler.eta))
        # A loop may go through a list of its own, of which the scheduler's levels say nothing.
        known = levels is not None and begin is not None and self._schedule is getattr(scheduler, "timesteps", None)
        levels = self._by_step(levels, begin) if known else None
        scale = scale_of({}, pipeline, type(pipeline).__name__) if loop is None else scale_of(loop.told, pipeline, loop.name)
        return sampler, levels, None if scale is None else (scale, None)

    def _by_step(self, levels: tuple[float, ...], begin: int) -> tuple[float, ...]:
        """Of the ``levels`` of all places one for each step from ``begin`` on, and where this run's last step ends."""
        of_step = {step: place for place, step in enumerate(self._steps[: self._last + 1])}
        return (*(levels[place] for step, place in of_step.items() if step >= begin), levels[self._last + 1])

    def rows(self, count: int, loop: Loop | None) -> Layout | str:
        """The rows of a U-Net call of ``count`` rows, or a clause that says why they are not known.

        Nor are they when the U-Net is called more often than the schedule says: then a call holds a tile, or only some of the rows.
        """
        if self._more_calls_than_scheduled:
            return TOO_MANY_CALLS
        if self._several:
            return self._why_unknown(loop)
        if loop is None:
            return Reason.of("called_by_hand", "the U-Net was not called by the loop of a pipeline")
        if loop.why_unknown:
            return loop.why_unknown
        if not loop.guided:
            return Layout(Layout.guided(2 * count)[count:])
        return Layout.guided(count) if count % 2 == 0 else Reason.of("no_pairs", "{count} rows do not form pairs", count=count)

    def marks(self, count: int, loop: Loop | None, text: Any) -> tuple[str, ...] | None:
        """The role of each chunk of a call of a transformer; None where it is not known."""
        if not self._several or loop is None or not loop.direct:
            return None
        return roles_of(text, loop.told, count, first=self._calls_here <= 1)

    @property
    def whole_because(self) -> Reason | None:
        """Why no call may be left out as a whole (a clause), or None."""
        return other_model(self._pipeline())

    @staticmethod
    def in_other_calls(rows: Layout, loop: Loop | None) -> Layout:
        """The rows that the other calls of the step of ``rows`` hold, as far as a guider tells."""
        told = {} if loop is None or not loop.direct or not rows.known else loop.told
        return Layout(Row(role, image) for role in roles_besides(told) for image in sorted({row.image for row in rows}))

    @staticmethod
    def _why_unknown(loop: Loop | None) -> Reason:
        if loop is None:
            return Reason.of("called_by_hand", "the model was not called by the loop of a pipeline")
        if not loop.direct:
            return Reason.of("beside_the_loop", "the model was called outside the loop of {pipeline}", pipeline=loop.name)
        return Reason.of("order_unknown", "Accel does not know how {pipeline} orders its rows", pipeline=loop.name)

    @property
    def evaluation(self) -> int:
        """1 where a scheduler with two evaluations per step is about to be given the second, otherwise 0."""
        return int(getattr(getattr(self._pipeline(), "scheduler", None), "state_in_first_order", True) is False)

    def _read_schedule(self, clock: StepClock, loop: Loop | None) -> bool:
        """Whether there is a schedule. A new one begins a pass: schedulers make a new tensor for every run of the pipeline."""
        schedule = getattr(getattr(self.pipeline, "scheduler", None), "timesteps", None)
        mine = loop.timesteps if loop is not None else None
        if not isinstance(schedule, torch.Tensor) or schedule.numel() == 0 or schedule.is_meta:
            return False
        # A loop's own list is that of its whole run, whatever it does to its scheduler meanwhile.
        run = schedule if mine is None else mine
        if run is self._run and self._by_hand == (loop is None):
            return True
        clock.new_pass()
        self._run, self._by_hand, self._place = run, loop is None, None
        self.tiles = self._more_calls_than_scheduled = False
        values = schedule.flatten().tolist()
        begin = 0 if mine is None else _part_of(values, mine.flatten().tolist())
        if begin is None:
            schedule, values, begin = run, run.flatten().tolist(), 0
        self._schedule, self._values = schedule, values
        self._steps = steps_of_places(getattr(self.pipeline, "scheduler", None), len(values))
        self._last = begin + run.numel() - 1
        return True

    def _place_of(self, timestep: Any) -> int | None:
        """The place of ``timestep`` in the schedule, which may list a value several times. None where frames are at different ones."""
        if _differ(timestep):
            return None
        place = self._by_address(timestep)
        if place is not None:
            return place
        value = timestep_value(timestep)
        places = [place for place, other in enumerate(self._values) if other == value]
        if not places or self._place is None:
            return places[0] if places else None
        # The next one; where there is none, the last one again, as in loops that call twice per step; or a new pass.
        after = [place for place in places if place > self._place]
        return after[0] if after else self._place if self._place in places else places[0]

    def _by_address(self, timestep: Any) -> int | None:
        """The place of a view into the schedule, or into this run's part of it."""
        if not isinstance(timestep, torch.Tensor) or not timestep.numel():
            return None
        schedule = self._schedule
        for base, begin in ((schedule, 0), (self._run, self._last + 1 - self._run.numel())):
            if (timestep.device, timestep.dtype) != (base.device, base.dtype) or not base.is_contiguous():
                continue
            offset = timestep.data_ptr() - base.data_ptr()
            if 0 <= offset < base.numel() * base.element_size() and offset % base.element_size() == 0:
                return begin + offset // base.element_size()
        return None


def _eta_of(loop: Loop, eta: float) -> float:
    """How much of the noise a loop tells its scheduler to draw anew, which it does where the scheduler can; ``eta`` where it does not."""
    given = loop.told.get("extra_step_kwargs")
    told = given.get("eta") if isinstance(given, Mapping) else None
    return float(told) if isinstance(told, (int, float)) else eta


def _differ(timestep: Any) -> bool:
    """Whether it holds several values. One that is repeated without a copy is not waited for on a GPU."""
    if not isinstance(timestep, torch.Tensor) or timestep.numel() < 2 or not any(timestep.stride()):
        return False
    return bool((timestep != timestep.flatten()[0]).any())


def _part_of(values: list[float], part: list[float]) -> int | None:
    """Where ``part`` begins in ``values``, None when it is no part of it. The latest: image-to-image leaves out the beginning."""
    for begin in range(len(values) - len(part), -1, -1):
        if values[begin : begin + len(part)] == part:
            return begin
    return None
