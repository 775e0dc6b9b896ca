"""Where a U-Net call stands, from whoever knows: the host, the pipeline's schedule, the timestep, in this order of trust."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..backends.loops import Loop, calling_loop, pictures_of, residuals_of
from ..backends.pipeline import PipelineView
from ..core.noise import Noise
from ..core.noise_view import NoiseView
from ..core.rows import Layout, Row
from ..core.samplers import Sampler
from ..core.schedule import Step, StepClock, timestep_value
from ..core.sites import held_unet
from .contract import Moment


@dataclass(frozen=True)
class Told:
    """What a host said of a step besides its place and rows; see `Accelerator.step`."""

    guidance: float | None = None
    sigma: float | None = None
    settled: int = 0
    guided_because: str | None = None
    dropped: bool = False
    evaluation: int = 0
    sampler: Sampler | None = None
    sigmas: tuple[float, ...] | None = None
    scales: tuple[float, float | None] | None = None
    state: Hashable = None
    whole_because: str | None = None


class Whereabouts:
    """The steps, rows and noise levels of one U-Net's calls. The model is held weakly. several: see `PipelineView`."""

    def __init__(self, model: Any, several: bool = False) -> None:
        self._clock = StepClock()
        self._several = several
        # Where the pipeline's loop is in the call read last.
        self._loop: Loop | None = None
        # The accelerated pipeline, or a sibling that shares its U-Net and is in its loop now; None on a bare U-Net.
        self._pipeline = PipelineView(model, several) if hasattr(model, "scheduler") and held_unet(model) is not model else None
        self._own = self._pipeline
        self._noise = self._pipeline.noise if self._pipeline else NoiseView(model)
        self._told = Told()
        self._state: Hashable = None
        self.passes = 0
        # Whether the call read last came from a pipeline's own loop.
        self.in_loop = False

    def tell(self, index: int, total: int, rows: Sequence[Row] | None, told: Told) -> None:
        """The host's word on the calls that follow; see `Accelerator.step`."""
        self._clock.tell(index, total, None if rows is None else tuple(rows))
        self._told = told

    def new_pass(self) -> None:
        """The next call begins a pass."""
        self._clock.new_pass()

    @property
    def rows_taken(self) -> int:
        """Rows that calls took since the host told a step."""
        return self._clock.rows_taken

    def at_call(
        self, unet: torch.nn.Module, sample: torch.Tensor, timestep: Any, marks: Sequence[str] | None = None, text: Any = None
    ) -> Moment:
        """The call of ``unet`` on latents ``sample`` [rows, channels, h, w]. marks: see `Backend.marks_of`. text: `Backend.text_of`."""
        self.in_loop = False
        loop = None if self._own is None or self._clock.rows_told is not None else calling_loop(unet)
        if self._own is not None:
            self.in_loop = loop is not None and loop.direct
            self._follow(loop)
        if self._clock.told:
            step = self._clock.at_host_step()
        else:
            step = self._pipeline.step(self._clock, timestep, loop) if self._pipeline else None
            step = step or self._clock.at_timestep(timestep_value(timestep))
        rows = len(sample)
        layout = self._pipeline.rows(rows, loop) if self._pipeline else None
        if marks is None and self._pipeline:
            marks = self._pipeline.marks(rows, loop, text)
            layout = layout if marks is None else None
        self._loop = loop
        moment = self._moment(step, self._clock.take_rows(rows, layout, marks), timestep, sample)
        self._loop = None
        return moment

    def _follow(self, loop: Loop | None) -> None:
        """See the pipeline whose loop the call comes from; another one's run is another pass."""
        pipeline = self._own.pipeline if loop is None else loop.pipeline
        if pipeline is self._pipeline.pipeline:
            return
        self._pipeline = self._own if pipeline is self._own.pipeline else PipelineView(pipeline, self._several)
        self._noise = self._pipeline.noise
        if not self._clock.told:
            self._clock.new_pass()

    def at_step(self) -> Moment | None:
        """The whole step that the host told last; None when it did not tell the rows."""
        rows = self._clock.rows_told
        return None if rows is None else self._moment(self._clock.at_host_step(), Layout(rows), None, None)

    @property
    def tiles(self) -> bool:
        """Whether this pass runs the U-Net more often than was said: then its calls may hold parts of pictures."""
        return self._clock.overran if self._clock.told else self._pipeline is not None and self._pipeline.tiles

    @property
    def ends_pass(self) -> bool:
        """Whether the call read last is known to be the last of its pass."""
        return self._clock.ends_pass if self._clock.told else self._pipeline is not None and self._pipeline.ends_pass

    def _moment(self, step: Step, layout: Layout, timestep: Any, sample: torch.Tensor | None) -> Moment:
        self.passes += step.new_pass
        told = self._told if self._clock.told else Told()

        def noise() -> Noise:
            read = self._pipeline.read if self._pipeline else timestep_value
            sigma = told.sigma
            if timestep is None and sigma is None and sigmas is not None and step.index < len(sigmas):
                sigma = sigmas[step.index]
            return self._noise.at(None if timestep is None else read(timestep), sigma)

        sampler, sigmas, scales = told.sampler, told.sigmas, told.scales
        if not self._clock.told and self._pipeline is not None:
            sampler, sigmas, scales = self._pipeline.sampling(self._clock, self._loop)
        place = (self.passes, step.index)
        evaluation = told.evaluation if self._clock.told or self._pipeline is None else self._pipeline.evaluation
        more = (told.settled, told.guided_because, told.dropped, evaluation, sigmas)
        moment = Moment(step, layout, place, told.guidance, self._noise.kind, noise, sample, *more)
        state = told.state if self._clock.told else self._state_in(self._loop)
        others = _without(self._clock.rows_told, layout)
        whole_because = told.whole_because
        if not self._clock.told and self._pipeline is not None:
            others, whole_because = self._pipeline.in_other_calls(layout, self._loop), self._pipeline.whole_because
        more_told = {"state": state, "whole_because": whole_because, "mixed": self._noise.mixed, "in_other_calls": others}
        more_told["sigma"] = told.sigma
        return replace(moment, sampler=sampler, scales=scales, **more_told)

    def _state_in(self, loop: Loop | None) -> Hashable:
        """What predictions depend on besides; see `Moment`. A call beside the loop says nothing of the loop's."""
        if loop is None or loop.direct:
            self._state = (residuals_of(loop), pictures_of(loop))
        return self._state


def _without(told: Sequence[Row] | None, rows: Layout) -> Layout:
    """Those of the rows that a host told of a step which are not among ``rows``."""
    here = {row.key for row in rows}
    return Layout(row for row in told or () if row.key not in here)
