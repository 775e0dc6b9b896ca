"""The sampler of a pass and the noise levels that it goes through, as the host makes them: its own code is asked, never a formula."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from ...core.samplers import Sampler, sampler_named
from . import facts
from .rows import is_edit, sigma_of

# Samplers that draw noise into the latents before a call when a job asks for churn: the call is then at another level than the list says.
CHURNING = ("Euler", "Heun", "DPM2")
# A sampler that goes through times of its own making in AUTOMATIC1111's WebUI, Forge and reForge. Later Forge Neo runs it by noise levels.
UNTOLD = "UniPC"
# How far a call may be from the level that the list has for it.
CLOSE = 1e-3


class Levels:
    """The noise levels of one pass, read in its first step or where another model goes on with it, and compared with those of its calls
    from then on."""

    def __init__(self) -> None:
        self._denoiser: Any = None
        self._sigmas: tuple[float, ...] | None = None

    def at(self, denoiser: Any, params: Any) -> tuple[Sampler | None, float | None, tuple[float, ...] | None]:
        """(sampler, noise level of this step, those of the pass and where it ends); None for what cannot be known."""
        sampler, sigma = sampler_of(denoiser), sigma_of(denoiser, params)
        if denoiser is not self._denoiser or denoiser.step == 0:
            self._denoiser, self._sigmas = denoiser, None
            if sampler is not None and sampler.forecasting is not None:
                self._sigmas = _levels(denoiser, sigma)
        if self._sigmas is not None and not _fits(self._sigmas, denoiser.step, sigma):
            self._sigmas = None
        return sampler, sigma, self._sigmas


def sampler_of(denoiser: Any) -> Sampler | None:
    """What the host's sampler is, with the job's own eta and churn; None when the host does not tell its name."""
    given, p = denoiser.sampler, denoiser.p
    name = getattr(getattr(given, "config", None), "name", None) or getattr(given, "name", None)
    if not isinstance(name, str):
        return None
    sampler = sampler_named(name) or Sampler(name, known=False)
    eta = getattr(given, "eta", None)
    if isinstance(eta, (int, float)):
        sampler = sampler.with_eta(float(eta))
    if sampler.name in CHURNING and (getattr(given, "s_churn", 0) or getattr(p, "s_churn", 0) or 0) > 0:
        sampler = replace(sampler, name=f"{sampler.name} with churn", adds_noise=True, forecasting=None)
    return sampler


def foreseen(sampler: str) -> str:
    """The name by which a look ahead goes; none where this host does not tell a sampler's noise levels: no step of it can be forecast."""
    return "" if sampler == UNTOLD and not _runs_by_levels(sampler) else sampler


def _runs_by_levels(sampler: str) -> bool:
    """Whether the host has it among k-diffusion's samplers, which are given noise levels, and not among those that are given timesteps."""
    module = sys.modules.get("modules.sd_samplers_kdiffusion")
    return sampler in (getattr(module, "k_diffusion_samplers_map", None) or {})


def scales_of(denoiser: Any) -> tuple[float, float | None] | None:
    """(guidance scale, InstructPix2Pix's scale of the picture) by which the host combines rows; None when it does not tell."""
    scale = (getattr(denoiser.sampler, "sampler_extra_args", None) or {}).get("cond_scale")
    if scale is None:
        return None
    image = getattr(denoiser, "image_cfg_scale", None) if is_edit(denoiser) else None
    return float(scale) * getattr(denoiser, "cond_scale_miltiplier", 1.0), None if image is None else float(image)


def _fits(sigmas: tuple[float, ...], step: int, sigma: float | None) -> bool:
    return sigma is not None and step < len(sigmas) - 1 and abs(sigmas[step] - sigma) <= CLOSE * sigmas[step]


def _levels(denoiser: Any, sigma: float | None) -> tuple[float, ...] | None:
    """The levels of the pass, ``sigma`` being that of the step at hand; None where the host's list does not hold it."""
    if sigma is None:
        return None
    sampler, p = denoiser.sampler, denoiser.p
    steps = facts.steps_of_schedule(p, getattr(denoiser, "init_latent", None) is not None)
    kept = dict(getattr(p, "extra_generation_params", None) or {})
    try:
        levels = _from_timesteps(denoiser, steps) if hasattr(sampler, "get_timesteps") else _from_sigmas(sampler, p, steps)
    finally:
        # Making the list writes to PNG info.
        if getattr(p, "extra_generation_params", None) is not None:
            p.extra_generation_params.clear()
            p.extra_generation_params.update(kept)
    here = next((place for place, level in enumerate(levels) if abs(level - sigma) <= CLOSE * sigma), None)
    if here is None or here + 1 >= len(levels) or here < denoiser.step:
        return None
    # The pass began so many steps before.
    return tuple(levels[here - denoiser.step :])


def _from_sigmas(sampler: Any, p: Any, steps: int) -> list[float]:
    return [float(level) for level in sampler.get_sigmas(p, steps)] if hasattr(sampler, "get_sigmas") else []


def _from_timesteps(denoiser: Any, steps: int) -> list[float]:
    """DDIM's list; the others' calls lie elsewhere, and are not found in it."""
    timesteps = denoiser.sampler.get_timesteps(denoiser.p, steps)
    alphas = getattr(denoiser, "alphas", None)
    alphas = denoiser.inner_model.inner_model.alphas_cumprod if alphas is None else alphas
    # On the processor: not every GPU has float64.
    alphas = alphas.cpu()[timesteps.cpu()].double().flip(0)
    return ((1 - alphas) / alphas).sqrt().tolist()
