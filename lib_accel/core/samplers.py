"""Every sampler that hosts list, classified once: what a step of it does, and how its calls may be forecast (`forecasting`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .forecasting import (
    ANCESTRAL,
    CORRECTED,
    EXPONENTIAL,
    LINEAR_MULTISTEP,
    LITTLE_NOISE,
    SECOND_ORDER,
    SECOND_ORDER_NOISE,
    STRAIGHT,
    Forecasting,
)
from .reasons import Reason


@dataclass(frozen=True)
class Sampler:
    """A sampler. name: as hosts list it. order: of its formula. adds_noise: whether its steps add noise. evaluations: U-Net calls per step.

    eta: how much of the noise is drawn anew. free_steps: whether it chooses its noise levels itself. multistep: whether a step uses calls
    of steps before. distilled: whether it is for models that are run in a few steps. forecasting: None where no call may be forecast.
    known: whether it is in the table.
    """

    name: str
    order: int = 1
    adds_noise: bool = False
    evaluations: int = 1
    eta: float = 0.0
    free_steps: bool = False
    multistep: bool = False
    distilled: bool = False
    forecasting: Forecasting | None = None
    known: bool = True

    @property
    def off(self) -> str | None:
        """Why no call may be forecast (a clause), or None."""
        if self.forecasting is not None:
            return None
        if not self.known:
            return Reason.of("sampler_unknown", "the sampler {sampler} is not known", sampler=self.name)
        if self.free_steps:
            return Reason.of("free_steps", "{sampler} chooses its noise levels itself", sampler=self.name)
        if self.distilled:
            return Reason.of("few_steps", "{sampler} is for models that are run in a few steps", sampler=self.name)
        if self.evaluations > 1:
            sentence = "{sampler} runs the U-Net {evaluations} times a step"
            return Reason.of("evaluations", sentence, sampler=self.name, evaluations=self.evaluations)
        return Reason.of("no_better", "with {sampler} fewer steps are better than forecasts", sampler=self.name)

    def on_flow(self) -> Sampler:
        """This sampler with the levels for models of flow matching."""
        own = self.forecasting
        return self if own is None or own.on_flow is None else replace(self, forecasting=replace(own, levels=own.on_flow, on_flow=None))

    def gain(self, sigmas: Sequence[float], step: int) -> float:
        """See `sampler_gains`; for samplers that can be forecast."""
        return self.forecasting.gain(sigmas, step, self.eta)

    def with_eta(self, eta: float) -> Sampler:
        """This sampler, told how much of the noise is drawn anew in every step: 0 none, 1 all."""
        if eta == self.eta or self.name not in _BY_ETA:
            return self
        calm, noisy = _BY_ETA[self.name]
        return replace(self, eta=eta, adds_noise=eta > 0, forecasting=noisy if eta > 0 else calm)


_BY_ETA = {"Euler a": (STRAIGHT, ANCESTRAL), "DDIM": (STRAIGHT, ANCESTRAL), "DPM++ 2M SDE": (SECOND_ORDER, SECOND_ORDER_NOISE)}

_ALL = (
    Sampler("Euler", forecasting=STRAIGHT),
    Sampler("DDIM", forecasting=STRAIGHT),
    Sampler("Euler a", adds_noise=True, eta=1.0, forecasting=ANCESTRAL),
    Sampler("DPM++ 2M", 2, multistep=True, forecasting=SECOND_ORDER),
    Sampler("DPM++ 2M SDE", 2, adds_noise=True, eta=1.0, multistep=True, forecasting=SECOND_ORDER_NOISE),
    Sampler("UniPC", 3, multistep=True, forecasting=CORRECTED),
    Sampler("LMS", 4, multistep=True, forecasting=LINEAR_MULTISTEP),
    # Of the Forge family.
    Sampler("Res Multistep", 2, multistep=True, forecasting=EXPONENTIAL),
    Sampler("ER SDE", 3, adds_noise=True, eta=1.0, multistep=True, forecasting=LITTLE_NOISE),
    # Not forecast.
    Sampler("DPM++ 2M SDE Heun", 2, adds_noise=True, eta=1.0, multistep=True),
    Sampler("DPM++ 3M SDE", 3, adds_noise=True, eta=1.0, multistep=True),
    Sampler("DPM++ 3M", 3, multistep=True),
    Sampler("PLMS", 4, multistep=True),
    Sampler("DEIS", 2, multistep=True),
    Sampler("DPM", 2, multistep=True),
    Sampler("SA-Solver", 3, adds_noise=True, multistep=True),
    Sampler("IPNDM", 4, multistep=True),
    Sampler("DDIM CFG++"),
    Sampler("DDPM", adds_noise=True, eta=1.0),
    Sampler("Heun", 2, evaluations=2),
    Sampler("DPM2", 2, evaluations=2),
    Sampler("DPM2 a", 2, adds_noise=True, evaluations=2, eta=1.0),
    Sampler("DPM++ 2S a", 2, adds_noise=True, evaluations=2, eta=1.0),
    Sampler("DPM++ SDE", 2, adds_noise=True, evaluations=2, eta=1.0),
    Sampler("DPM singlestep", 2),
    Sampler("Restart", 2, adds_noise=True, evaluations=2),
    Sampler("DPM fast", 3, free_steps=True),
    Sampler("DPM adaptive", 3, free_steps=True),
    Sampler("LCM", adds_noise=True, distilled=True),
    Sampler("TCD", adds_noise=True, distilled=True),
)
SAMPLERS: Mapping[str, Sampler] = {sampler.name: sampler for sampler in _ALL}


def sampler_named(name: Any) -> Sampler | None:
    """The sampler that a host lists as ``name``; a schedule's name behind it (as older hosts write it) is left out. None: unknown.
    A sampler is what it is."""
    if not isinstance(name, str):
        return name if isinstance(name, Sampler) else None
    words = name.lower().split(" ")
    heads = (" ".join(words[:count]) for count in range(len(words), 0, -1))
    return next((_BY_LOWER[head] for head in heads if head in _BY_LOWER and _is_schedule(name.lower()[len(head) :])), None)


def _is_schedule(ending: str) -> bool:
    return not ending or ending.strip() in _SCHEDULES


_BY_LOWER = {name.lower(): sampler for name, sampler in SAMPLERS.items()}
_SCHEDULES = (
    "automatic",
    "uniform",
    "karras",
    "exponential",
    "polyexponential",
    "sgm uniform",
    "kl optimal",
    "align your steps",
    "simple",
    "normal",
    "ddim",
    "beta",
)
