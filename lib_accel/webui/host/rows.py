"""Whose rows a step holds, in the order in which the host's U-Net calls take them, and from when on their prompts stay.

Whatever the batching (cond and uncond together or apart, prompts of different length, AND), the calls of one step consume this list
strictly in order.
"""

from __future__ import annotations

from typing import Any

from ...core.rows import Row
from . import facts
from .family import family


def rows_of(denoiser: Any, params: Any) -> list[Row] | None:
    """The rows of the U-Net calls that follow the host's `on_cfg_denoiser` callback; None when they cannot be known."""
    images = _images(denoiser)
    if images is None:
        return None
    cond = [Row("cond", i, k, float(part.weight)) for i, parts in enumerate(images) for k, part in enumerate(parts)]
    uncond = [Row("uncond", i) for i in range(len(images))]
    rows = cond + ([Row("image", i) for i in range(len(images))] if is_edit(denoiser) else []) + uncond
    if params.x.shape[0] != len(rows):
        # Somebody else changed the batch.
        return None
    return rows[: -len(uncond)] if host_skips_uncond(denoiser, params) else rows


def parts_of(denoiser: Any) -> list[int]:
    """How many AND sub-prompts each picture has."""
    return [len(parts) for parts in _images(denoiser) or ()]


def settled_from(denoiser: Any, total: int) -> int:
    """The step of ``total`` from which on no prompt changes any more: 0 without prompt editing, the last one with ``[a|b]``."""
    given = _given(denoiser)
    schedules = [part.schedules for parts in _images(denoiser) or () for part in parts] + list(given.get("uncond") or ())
    # An entry is in force up to and with its last step.
    changes = (entry.end_at_step + 1 for schedule in schedules for entry in schedule[:-1])
    return max((change for change in changes if change < total), default=0)


def is_edit(denoiser: Any) -> bool:
    """Whether this is InstructPix2Pix guidance, with a third row for the picture."""
    scale = getattr(denoiser, "image_cfg_scale", None)
    return getattr(denoiser.p.sd_model, "cond_stage_key", None) == "edit" and scale is not None and scale != 1.0


def host_skips_uncond(denoiser: Any, params: Any) -> bool:
    """Whether the host itself will leave out the negative prompt's rows in this step; it decides after the callback."""
    early = facts.option("skip_early_cond", 0.0)
    if early != 0.0 and denoiser.step / denoiser.total_steps <= early:
        return True
    below = _given(denoiser).get("s_min_uncond", 0.0) or 0.0
    if is_edit(denoiser) or below <= 0 or not (denoiser.step % 2 or facts.option("s_min_uncond_all", False)):
        return False
    return float(params.sigma[0]) < below


def guidance_of(denoiser: Any) -> float | None:
    """The scale by which the host guides in this step; None where there is no such number: with weights of AND prompts that do not add
    up to 1 the negative prompt counts at every scale."""
    scale = _given(denoiser).get("cond_scale")
    if scale is None or any(abs(sum(part.weight for part in parts) - 1) > 1e-6 for parts in _images(denoiser) or ()):
        return None
    return float(scale) * getattr(denoiser, "cond_scale_miltiplier", 1.0)


def sigma_of(denoiser: Any, params: Any) -> float | None:
    """The noise level of this step, relative to the picture. A GPU is waited for."""
    value = float(params.sigma[0])
    alphas = getattr(denoiser, "alphas", None)
    if alphas is None or family().forge:
        return value
    # DDIM, PLMS and UniPC are driven by timesteps; the Forge family turns them into noise levels first.
    alpha = float(alphas[int(value)])
    return ((1 - alpha) / alpha) ** 0.5 if 0 < alpha < 1 else None


def _given(denoiser: Any) -> dict[str, Any]:
    return getattr(getattr(denoiser, "sampler", None), "sampler_extra_args", None) or {}


def _images(denoiser: Any) -> Any:
    """For each picture its sub-prompts; None where the host does not tell."""
    return getattr(_given(denoiser).get("cond"), "batch", None)
