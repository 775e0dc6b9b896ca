"""Every sampler that hosts list, classified once: what a step of it does, and how its calls may be forecast.

Levels, warm-ups and what is left out were measured; each kind of forecast stands once below, each sampler is one line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import sampler_gains as gains
from .reasons import Reason

LEVELS = ("careful", "middle", "fast", "fastest")
# Fewer full calls say too little of how a picture changes.
LEAST_WARM_UP = 5


@dataclass(frozen=True)
class Control:
    """Error control. tolerance: what the errors of calls forecast in a row may add up to. largest_gap: how many of them there may be.
    calls: how many of 25 ran on average where it was measured; pictures differ. warm_up: the part of the steps that always run first, in
    place of the sampler's; last: how many always run last, likewise. keeps_guidance: whether keeping the guidance direction of earlier
    steps is nearer to the full picture at this level than more forecasts are in the same time.
    """

    tolerance: float
    largest_gap: int
    calls: float = 25.0
    warm_up: float | None = None
    last: int | None = None
    keeps_guidance: bool = False


@dataclass(frozen=True)
class Forecasting:
    """How the calls of a kind of sampler are forecast.

    order: 1 continues along the line through the last two calls, 0 holds the last, 0.5 is half way. of: what is continued, ``derivative``
    (the predicted noise; for flow matching the velocity) or ``picture`` (where samplers add noise). gain: see `sampler_gains`. warm_up: the
    part of the steps that always run first. last: how many steps always run last. last_steep: the same where the noise levels make more
    of an error in the last steps (`sampler_gains.is_steep`). levels: by name; on_flow: those for models of flow
    matching, where they are others. fixed: whether a fixed plan may be used.
    """

    order: float
    of: str
    gain: Callable[[Sequence[float], int, float], float]
    warm_up: float
    last: int
    levels: Mapping[str, Control]
    last_steep: int = 0
    fixed: bool = False
    on_flow: Mapping[str, Control] | None = None

    def first(self, steps: int, part: float | None = None) -> int:
        """How many of ``steps`` always run first. part: of the steps, in place of the sampler's own."""
        return max(math.ceil((self.warm_up if part is None else part) * steps - 1e-9), LEAST_WARM_UP)

    def last_of(self, sigmas: Sequence[float]) -> int:
        """How many steps always run last at these noise levels."""
        return max(self.last, self.last_steep if self.last_steep and gains.is_steep(sigmas) else 0)


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


# Where "fastest" is as "fast", nothing faster was found to be better than fewer steps.
_STRAIGHT = Forecasting(
    1.0,
    "derivative",
    gains.euler,
    warm_up=0.2,
    last=2,
    levels={
        "careful": Control(0.0025, 2, 18.5),
        "middle": Control(0.08, 2, 13.1),
        "fast": Control(0.2, 4, 10.8),
        "fastest": Control(0.4, 5, 9.0, last=1),
    },
    fixed=True,
    on_flow={
        "careful": Control(0.0025, 2, 18.5),
        "middle": Control(0.02, 2, 13.1),
        "fast": Control(0.08, 3, 11.0),
        "fastest": Control(0.2, 4, 10.0),
    },
)
_SECOND_ORDER_LEVELS = {
    "careful": Control(0.02, 1, 18.0),
    # A longer warm-up costs a tenth of a call; the worst of 64 pictures came 1.8 dB nearer.
    "middle": Control(0.04, 2, 15.5, warm_up=0.32),
    "fast": Control(0.08, 3, 13.5),
    "fastest": Control(0.16, 3, 12, warm_up=0.2),
}
_SECOND_ORDER = Forecasting(
    1.0,
    "derivative",
    gains.dpmpp_2m,
    warm_up=0.24,
    last=0,
    # The long step before the last extrapolates from the calls around it by more than it weighs them: with 3, a picture in 64 was ruined.
    last_steep=4,
    levels=_SECOND_ORDER_LEVELS | {"fastest": Control(0.16, 3, 12, warm_up=0.2, keeps_guidance=True)},
    on_flow=_SECOND_ORDER_LEVELS,
)
_ANCESTRAL = Forecasting(
    0.0,
    "picture",
    gains.euler,
    warm_up=0.32,
    last=1,
    levels={
        "careful": Control(0.04, 1, 19.2),
        "middle": Control(0.08, 1, 18.5),
        "fast": Control(0.16, 2, 14.8),
        "fastest": Control(0.32, 3, 13.9),
    },
    fixed=True,
)
_SECOND_ORDER_NOISE = Forecasting(
    0.5,
    "picture",
    gains.dpmpp_2m,
    warm_up=0.32,
    last=1,
    levels={
        "careful": Control(0.08, 2, 21),
        "middle": Control(0.16, 2, 20),
        "fast": Control(0.32, 2, 19.5),
        "fastest": Control(0.64, 3, 17.8),
    },
)
_CORRECTED = Forecasting(
    1.0,
    "derivative",
    gains.dpmpp_2m,
    warm_up=0.32,
    last=0,
    last_steep=3,
    levels={"careful": Control(0.02, 2, 22), "middle": Control(0.04, 2, 20), "fast": Control(0.08, 2, 19), "fastest": Control(0.08, 2, 19)},
)
_LINEAR_MULTISTEP = replace(_CORRECTED, gain=gains.lms)
# Guidance kept beside forecasts was not measured with it.
_EXPONENTIAL = replace(_SECOND_ORDER, gain=gains.res_multistep, levels=_SECOND_ORDER_LEVELS)
# It adds little noise. Steps of two forecasts in a row made the worst of 16 pictures 6 dB worse.
_LITTLE_NOISE = replace(
    _SECOND_ORDER_NOISE,
    gain=gains.er_sde,
    levels={
        "careful": Control(0.02, 2, 18.4),
        "middle": Control(0.08, 1, 17.3),
        "fast": Control(0.08, 2, 15.0),
        "fastest": Control(0.16, 2, 14.1),
    },
)
_BY_ETA = {"Euler a": (_STRAIGHT, _ANCESTRAL), "DDIM": (_STRAIGHT, _ANCESTRAL), "DPM++ 2M SDE": (_SECOND_ORDER, _SECOND_ORDER_NOISE)}

_ALL = (
    Sampler("Euler", forecasting=_STRAIGHT),
    Sampler("DDIM", forecasting=_STRAIGHT),
    Sampler("Euler a", adds_noise=True, eta=1.0, forecasting=_ANCESTRAL),
    Sampler("DPM++ 2M", 2, multistep=True, forecasting=_SECOND_ORDER),
    Sampler("DPM++ 2M SDE", 2, adds_noise=True, eta=1.0, multistep=True, forecasting=_SECOND_ORDER_NOISE),
    Sampler("UniPC", 3, multistep=True, forecasting=_CORRECTED),
    Sampler("LMS", 4, multistep=True, forecasting=_LINEAR_MULTISTEP),
    # Of the Forge family.
    Sampler("Res Multistep", 2, multistep=True, forecasting=_EXPONENTIAL),
    Sampler("ER SDE", 3, adds_noise=True, eta=1.0, multistep=True, forecasting=_LITTLE_NOISE),
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
    """The sampler that a host lists as ``name``; a schedule's name behind it (as older hosts write it) is left out. None: unknown."""
    if not isinstance(name, str):
        return None
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
