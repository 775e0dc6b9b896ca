"""Whose rows a step holds, in the order in which the host's U-Net calls take them.

Whatever the batching (cond and uncond together or apart, prompts of different length, AND), the calls of one step consume this list
strictly in order.
"""

from __future__ import annotations

from typing import Any

from ..layout import Row
from . import host


def rows_of(denoiser: Any, params: Any) -> list[Row] | None:
    """The rows of the U-Net calls that follow the host's `on_cfg_denoiser` callback; None when they cannot be known."""
    given = getattr(getattr(denoiser, "sampler", None), "sampler_extra_args", None) or {}
    images = getattr(given.get("cond"), "batch", None)
    if images is None:
        return None
    cond = [Row("cond", i, k, float(part.weight)) for i, parts in enumerate(images) for k, part in enumerate(parts)]
    uncond = [Row("uncond", i) for i in range(len(images))]
    edit = is_edit(denoiser)
    rows = cond + ([Row("image", i) for i in range(len(images))] if edit else []) + uncond
    if params.x.shape[0] != len(rows):
        # Somebody else changed the batch.
        return None
    return rows[: -len(uncond)] if host_skips_uncond(denoiser, params, given, edit) else rows


def is_edit(denoiser: Any) -> bool:
    """Whether this is InstructPix2Pix guidance, with a third row for the picture."""
    scale = getattr(denoiser, "image_cfg_scale", None)
    return getattr(denoiser.p.sd_model, "cond_stage_key", None) == "edit" and scale is not None and scale != 1.0


def host_skips_uncond(denoiser: Any, params: Any, given: dict, edit: bool) -> bool:
    """Whether the host itself will leave out the negative prompt's rows in this step; it decides after the callback."""
    early = host.option("skip_early_cond", 0.0)
    if early != 0.0 and denoiser.step / denoiser.total_steps <= early:
        return True
    below = given.get("s_min_uncond", 0.0) or 0.0
    if edit or below <= 0 or not (denoiser.step % 2 or host.option("s_min_uncond_all", False)):
        return False
    return float(params.sigma[0]) < below
