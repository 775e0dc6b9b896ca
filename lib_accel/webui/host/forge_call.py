"""One CFG call of a host of the Forge family, as our modifier sees it: whose rows its U-Net calls hold, who else is at work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...backends.forge import counting, home
from ...core.reasons import Reason
from ...core.rows import Row
from . import facts
from .family import family

SPECTRUM = "spectrum"
# Whose functions in guidance are those of CFG++ samplers.
SAMPLERS = "k_diffusion"
BESIDE_SPECTRUM = Reason.of("spectrum", "the WebUI's Spectrum is on and forecasts calls itself")
CFG_PLUS = Reason.of("cfg_plus_plus", "the sampler needs the negative prompt's prediction (CFG++)")
BOTH = Reason.of("needs_both", "another extension needs both predictions")


@dataclass(frozen=True)
class CfgCall:
    """images: pictures in the batch. weights: of each AND part. guided: whether the host runs the negative prompt. scale: of guidance."""

    images: int
    weights: tuple[float, ...]
    guided: bool
    scale: float
    options: Mapping[str, Any]

    @property
    def total(self) -> float:
        """The sum of the AND weights, by which the host multiplies the scale."""
        return sum(self.weights)

    @property
    def positive(self) -> float:
        """The same of the parts that count where no negative prompt runs (`shares_of`)."""
        return sum(max(weight, 0.0) for weight in self.weights)

    @property
    def rows(self) -> list[Row]:
        """All rows of its U-Net calls: the negative prompt first, the parts of an AND prompt backwards."""
        uncond = [Row("uncond", image) for image in range(self.images)] if self.guided else []
        parts = reversed(list(enumerate(self.weights)))
        return uncond + [Row("cond", image, part, weight) for part, weight in parts for image in range(self.images)]

    @property
    def wrapper(self) -> str | None:
        """Whose wrapper is around the U-Net's calls, if any; it may give the U-Net other rows, or not call it at all."""
        function = self.options.get("model_function_wrapper") or self.options.get("sampler_calc_cond_batch_function")
        return None if function is None else home(function)

    @property
    def by_spectrum(self) -> bool:
        """Whether that is the host's built-in Spectrum, which forecasts whole calls."""
        return SPECTRUM in (self.wrapper or "").lower()

    def neighbour(self) -> Reason | None:
        """Who else counts on every call and on all of its rows (a clause), or None."""
        if self.by_spectrum:
            return BESIDE_SPECTRUM
        function = next(_of_cfg(self.options), None)
        if function is not None and home(function).startswith(SAMPLERS):
            return CFG_PLUS
        if function is not None:
            return Reason.of("works_on_both", "{home} works on both predictions", home=home(function))
        if self.options.get("disable_cfg1_optimization"):
            return BOTH
        return counting(self.options.get("transformer_options") or {})


def read(denoiser: Any, x: Any, sigma: float, uncond: Any, cond: Any, scale: float, options: Mapping[str, Any]) -> CfgCall:
    """The call that a conditioning modifier was given."""
    at_one = math.isclose(scale, 1.0) and not options.get("disable_cfg1_optimization", False)
    guided = uncond is not None and not at_one and not _is_skipped_unseen(denoiser, sigma)
    return CfgCall(len(x), tuple(float(part.get("strength", 1)) for part in cond), guided, float(scale), options)


def controlnets(patcher: Any, sigma: float) -> tuple[bool, ...]:
    """Which of the ControlNets on this patcher act at the noise level ``sigma``, as their own windows say."""
    acting = []
    for net in patcher.list_controlnets() if hasattr(patcher, "list_controlnets") else ():
        window = getattr(net, "timestep_range", None)
        acting.append(window is None or not (sigma > window[0] or sigma < window[1]))
    return tuple(acting)


def _of_cfg(options: Mapping[str, Any]) -> Iterator[Any]:
    """The functions that take part in guidance."""
    if options.get("sampler_cfg_function") is not None:
        yield options["sampler_cfg_function"]
    yield from options.get("sampler_pre_cfg_function") or ()
    yield from options.get("sampler_post_cfg_function") or ()


def _is_skipped_unseen(denoiser: Any, sigma: float) -> bool:
    """Whether the host will leave out the negative prompt behind our modifier; reForge does, by its options alone."""
    if not family().hides_skips:
        return False
    below, early = facts.option("s_min_uncond", 0.0) or 0.0, facts.option("skip_early_cond", 0.0) or 0.0
    if below > 0 and sigma < below and (denoiser.step % 2 == 0 or facts.option("s_min_uncond_all", False)):
        return True
    return denoiser.step < early or (early != 0 and denoiser.step / denoiser.total_steps <= early)
