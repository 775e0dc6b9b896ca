"""How the calls of each kind of sampler are forecast: its levels, its warm-up, and which steps always run.

All values were measured; docs/benchmarks.md has how far pictures are from the full ones with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from . import sampler_gains as gains

LEVELS = ("careful", "middle", "fast", "fastest", "draft")
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


# Every kind of forecast once. Where a level is as the one before it, nothing faster was found to be better than fewer steps.
STRAIGHT = Forecasting(
    1.0,
    "derivative",
    gains.euler,
    warm_up=0.2,
    last=2,
    levels={
        "careful": Control(0.0025, 2, 18.5),
        # With 0.06 the worst of 8 pictures was 30 dB from the full one, for half a call less.
        "middle": Control(0.02, 2, 14.1),
        "fast": Control(0.2, 4, 10.8),
        "fastest": Control(0.4, 5, 9.0, last=1),
        "draft": Control(0.8, 6, 8.2, last=1, keeps_guidance=True),
    },
    fixed=True,
    on_flow={
        "careful": Control(0.0025, 2, 18.5),
        "middle": Control(0.02, 2, 13.1),
        "fast": Control(0.08, 3, 11.0),
        "fastest": Control(0.2, 4, 10.0),
        "draft": Control(0.2, 4, 10.0, keeps_guidance=True),
    },
)
SECOND_ORDER_LEVELS = {
    "careful": Control(0.02, 1, 18.0),
    # A longer warm-up costs a tenth of a call; the worst of 64 pictures came 1.8 dB nearer.
    "middle": Control(0.04, 2, 15.5, warm_up=0.32),
    "fast": Control(0.08, 3, 13.5),
    "fastest": Control(0.16, 3, 12, warm_up=0.2),
    "draft": Control(0.16, 3, 12, warm_up=0.2),
}
SECOND_ORDER = Forecasting(
    1.0,
    "derivative",
    gains.dpmpp_2m,
    warm_up=0.24,
    last=0,
    # The long step before the last extrapolates from the calls around it by more than it weighs them: with 3, a picture in 64 was ruined.
    last_steep=4,
    levels=SECOND_ORDER_LEVELS
    | {
        "fastest": Control(0.16, 3, 12, warm_up=0.2, keeps_guidance=True),
        "draft": Control(1.2, 8, 8.1, warm_up=0.2, last=1, keeps_guidance=True),
    },
    on_flow=SECOND_ORDER_LEVELS,
)
ANCESTRAL = Forecasting(
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
        "draft": Control(1.2, 8, 10.3, keeps_guidance=True),
    },
    fixed=True,
)
SECOND_ORDER_NOISE = Forecasting(
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
        "draft": Control(1.2, 8, 13, keeps_guidance=True),
    },
)
CORRECTED = Forecasting(
    1.0,
    "derivative",
    gains.dpmpp_2m,
    warm_up=0.32,
    last=0,
    last_steep=3,
    levels={
        "careful": Control(0.02, 2, 22),
        "middle": Control(0.04, 2, 20),
        "fast": Control(0.08, 2, 19),
        "fastest": Control(0.08, 2, 19),
        "draft": Control(0.08, 2, 19),
    },
)
LINEAR_MULTISTEP = replace(CORRECTED, gain=gains.lms)
# Guidance kept beside forecasts was not measured with it.
EXPONENTIAL = replace(SECOND_ORDER, gain=gains.res_multistep, levels=SECOND_ORDER_LEVELS)
# It adds little noise. Steps of two forecasts in a row made the worst of 16 pictures 6 dB worse.
LITTLE_NOISE = replace(
    SECOND_ORDER_NOISE,
    gain=gains.er_sde,
    levels={
        "careful": Control(0.02, 2, 18.4),
        "middle": Control(0.08, 1, 17.3),
        "fast": Control(0.08, 2, 15.0),
        "fastest": Control(0.16, 2, 14.1),
        "draft": Control(0.16, 2, 14.1),
    },
)
