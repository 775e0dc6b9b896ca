"""The samplers that `--sampler` names, as the WebUI lists them: schedulers of diffusers that go through the same noise levels."""

from __future__ import annotations

from typing import Any

from .errors import CommandError

_EVEN = {"timestep_spacing": "linspace"}
_KARRAS = {"use_karras_sigmas": True, **_EVEN}
_SDE = {"algorithm_type": "sde-dpmsolver++"}
# Name -> scheduler class and what is set differently from the model's own configuration.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("EulerDiscreteScheduler", _EVEN),
    "Euler a": ("EulerAncestralDiscreteScheduler", _EVEN),
    "DDIM": ("DDIMScheduler", {"timestep_spacing": "leading", "clip_sample": False, "set_alpha_to_one": False}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", _EVEN),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", _KARRAS),
    "DPM++ 2M SDE Karras": ("DPMSolverMultistepScheduler", _KARRAS | _SDE),
    "UniPC": ("UniPCMultistepScheduler", _EVEN),
    "LMS": ("LMSDiscreteScheduler", _EVEN),
    "PLMS": ("PNDMScheduler", {"timestep_spacing": "leading", "skip_prk_steps": True, "set_alpha_to_one": False}),
    "Heun": ("HeunDiscreteScheduler", _EVEN),
}


def check_sampler(name: str | None) -> None:
    """CommandError for a name that is not in the list."""
    if name is not None and name not in SAMPLERS:
        raise CommandError(f"--sampler is {name!r}; it must be one of {', '.join(SAMPLERS)}.")


def use_sampler(pipeline: Any, name: str | None) -> None:
    """Give ``pipeline`` the sampler ``name``; None leaves its own. The model's betas and what it predicts stay."""
    if name is None:
        return
    import diffusers

    kind, changed = SAMPLERS[name]
    pipeline.scheduler = getattr(diffusers, kind).from_config(pipeline.scheduler.config, **changed)
