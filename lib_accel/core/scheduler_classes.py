"""Which sampler a scheduler of diffusers is, by the name of its class and its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .samplers import SAMPLERS, Sampler

CLASSES: Mapping[str, str] = {
    "EulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "DDIMScheduler": "DDIM",
    "DDIMParallelScheduler": "DDIM",
    "CogVideoXDDIMScheduler": "DDIM",
    "FlowMatchEulerDiscreteScheduler": "Euler",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "UniPCMultistepScheduler": "UniPC",
    "LMSDiscreteScheduler": "LMS",
    # Not forecast; see `samplers`.
    "PNDMScheduler": "PLMS",
    "DDPMScheduler": "DDPM",
    "DDPMParallelScheduler": "DDPM",
    "DEISMultistepScheduler": "DEIS",
    "IPNDMScheduler": "IPNDM",
    "SASolverScheduler": "SA-Solver",
    "DPMSolverSinglestepScheduler": "DPM singlestep",
    "DPMSolverSDEScheduler": "DPM++ SDE",
    "HeunDiscreteScheduler": "Heun",
    "FlowMatchHeunDiscreteScheduler": "Heun",
    "KDPM2DiscreteScheduler": "DPM2",
    "KDPM2AncestralDiscreteScheduler": "DPM2 a",
    "LCMScheduler": "LCM",
    "FlowMatchLCMScheduler": "LCM",
    "TCDScheduler": "TCD",
}
# By algorithm_type and solver_order. The first order of DPM-Solver++ is DDIM's step.
_DPM_SOLVERS = {
    ("dpmsolver++", 1): "DDIM",
    ("dpmsolver++", 2): "DPM++ 2M",
    ("dpmsolver++", 3): "DPM++ 3M",
    ("sde-dpmsolver++", 2): "DPM++ 2M SDE",
    ("sde-dpmsolver++", 3): "DPM++ 3M SDE",
    ("dpmsolver", 1): "DDIM",
    ("dpmsolver", 2): "DPM",
    ("dpmsolver", 3): "DPM",
}


def is_flow(name: str, config: Any = None) -> bool:
    """Whether models of a scheduler class predict flow matching's velocity. config: as in `sampler_of_class`."""
    return name.startswith("FlowMatch") or _Config(config)("prediction_type", "") == "flow_prediction"


def mixes_as_flow(name: str, config: Any = None) -> bool:
    """Whether its latents are (1 - s) * picture + s * noise."""
    given = _Config(config)
    return name.startswith("FlowMatch") or given.is_flow


def sampler_of_class(name: str, config: Any = None) -> Sampler | None:
    """The sampler of a scheduler class. config: its configuration, a mapping or an object. None: unknown, or none that samples."""
    given = _Config(config)
    known = SAMPLERS.get(CLASSES.get(name, ""))
    if known is None:
        return None
    if name == "DPMSolverMultistepScheduler":
        return _dpm_solver(given)
    if name == "PNDMScheduler" and not given("skip_prk_steps", False):
        return _unmeasured(known, "PNDM with Runge-Kutta steps")
    if name == "FlowMatchEulerDiscreteScheduler" and given("stochastic_sampling", False):
        return replace(_unmeasured(known, "Euler on flow matching that adds noise"), adds_noise=True)
    return known


def _dpm_solver(given: _Config) -> Sampler:
    algorithm, order = given("algorithm_type", "dpmsolver++"), given("solver_order", 2)
    name = _DPM_SOLVERS.get((algorithm, order))
    if name is None:
        return replace(_unmeasured(SAMPLERS["DPM"], f"{algorithm} of order {order}"), adds_noise=str(algorithm).startswith("sde"))
    if given.is_flow and str(algorithm) != "dpmsolver++":
        return _unmeasured(SAMPLERS[name], f"{name} on flow matching")
    if order == 2 and given("solver_type", "midpoint") == "heun":
        return SAMPLERS["DPM++ 2M SDE Heun"] if name == "DPM++ 2M SDE" else _unmeasured(SAMPLERS[name], f"{name} Heun")
    return SAMPLERS[name]


def _unmeasured(sampler: Sampler, name: str) -> Sampler:
    return replace(sampler, name=name, forecasting=None)


class _Config:
    """A configuration, however it is held."""

    def __init__(self, held: Any) -> None:
        self._held = held

    def __call__(self, name: str, default: Any) -> Any:
        found = self._held.get(name) if isinstance(self._held, Mapping) else getattr(self._held, name, None)
        return default if found is None else found

    @property
    def is_flow(self) -> bool:
        return bool(self("use_flow_sigmas", False)) or self("prediction_type", "") == "flow_prediction"
