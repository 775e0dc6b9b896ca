"""What a running diffusers pipeline tells of a U-Net call: its step, and whose rows it holds."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from ..core.rows import Layout
from ..core.schedule import Step, StepClock, timestep_value


class PipelineView:
    """A pipeline seen from its U-Net. Holds the pipeline weakly; its scheduler may be exchanged at any time."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = weakref.ref(pipeline)
        self._schedule: torch.Tensor | None = None
        self._values: list[float] = []
        self._positions: dict[float, int] = {}
        self._place: int | None = None
        self._calls_here = 0
        self._more_calls_than_scheduled = False
        # Whether the U-Net was called more often in this pass than the schedule says.
        self.tiles = False
        # Whether the call read last is the last of its pass, by the schedule.
        self.ends_pass = False

    def step(self, clock: StepClock, timestep: Any) -> Step | None:
        """The step of a U-Net call at ``timestep``: its place among the distinct timesteps of the schedule, or None when it has none.

        Distinct, because schedulers with two evaluations per step list timesteps twice.
        """
        self.ends_pass = False
        schedule = getattr(getattr(self._pipeline(), "scheduler", None), "timesteps", None)
        if not isinstance(schedule, torch.Tensor) or schedule.numel() == 0:
            return None
        if schedule is not self._schedule:
            # Schedulers make a new tensor for every run of the pipeline.
            clock.new_pass()
            self._place, self.tiles = None, False
            self._schedule, self._values = schedule, schedule.flatten().tolist()
            self._positions = {value: place for place, value in enumerate(dict.fromkeys(self._values))}
        value = self.read(timestep)
        place = self._positions.get(value)
        self._calls_here = self._calls_here + 1 if place == self._place else 1
        self._place = place
        self._more_calls_than_scheduled = self._calls_here > max(1, self._values.count(value))
        self.tiles |= self._more_calls_than_scheduled
        self.ends_pass = place == len(self._positions) - 1 and self._calls_here == self._values.count(value)
        return None if place is None else clock.at_schedule(place, len(self._positions))

    def read(self, timestep: Any) -> float | None:
        """The timestep's value. A view into a schedule on a GPU is known by its address, so that the GPU is not waited for."""
        schedule = self._schedule
        on_gpu = isinstance(timestep, torch.Tensor) and timestep.device.type != "cpu"
        if on_gpu and (timestep.device, timestep.dtype) == (schedule.device, schedule.dtype):
            offset = timestep.data_ptr() - schedule.data_ptr()
            if 0 <= offset < schedule.numel() * schedule.element_size():
                return self._values[offset // schedule.element_size()]
        return timestep_value(timestep)

    def rows(self, count: int, sample: torch.Tensor | None = None) -> Layout | None:
        """The rows of a U-Net call of ``count`` rows on latents ``sample``, or None when this kind of pipeline does not tell.

        Nor when the U-Net is called more often than the schedule says: then a call holds a tile, or only some of the rows.
        """
        pipeline = self._pipeline()
        if self._more_calls_than_scheduled:
            return None
        try:
            guided = bool(pipeline.do_classifier_free_guidance)
        except AttributeError:
            if not type(pipeline).__name__.startswith("PixArt") or sample is None or not self._place:
                return None
            # It tells nobody, but guides by the same latents twice. Pictures begun from the same noise have parted after the first step.
            half = count // 2
            guided = count % 2 == 0 and torch.equal(sample[:half], sample[half:])
        # InstructPix2Pix and perturbed-attention pipelines batch a third kind of row.
        if hasattr(pipeline, "_image_guidance_scale") or getattr(pipeline, "do_perturbed_attention_guidance", False):
            return None
        if not guided:
            return Layout(Layout.guided(2 * count)[count:])
        return Layout.guided(count) if count % 2 == 0 else None

    @property
    def evaluation(self) -> int:
        """1 where a scheduler with two evaluations per step is about to be given the second, otherwise 0."""
        return int(getattr(getattr(self._pipeline(), "scheduler", None), "state_in_first_order", True) is False)
