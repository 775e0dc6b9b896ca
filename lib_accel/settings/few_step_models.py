"""Models that are run in few steps (LCM, Turbo, Lightning, Schnell, Lightx2v, Hyper-SD, DMD2): what gives them away before a job."""

from __future__ import annotations

import re
from collections.abc import Iterable

FEW_STEPS = 10
# Distilled models have no use for guidance nor for many steps; a job without guidance but with many steps is another matter.
LOW_GUIDANCE, MOST_STEPS = 2.0, 20

_NAMES = re.compile(r"LCM|(?<![A-Za-z])lcm(?![a-z])|(?i:turbo|lightning|schnell|lightx2v|hyper[-_ ]?sd|(?<![a-z])hyper(?![a-z])|dmd2)")
_LORA = re.compile(r"<lora:([^:>]+)(?::\s*([^:>]*))?[^>]*>")


def few_step_sign(
    steps: int | None = None,
    names: Iterable[str] = (),
    sampler: str = "",
    guidance: float | None = None,
    loras: Iterable[str] = (),
    transformer: bool = False,
) -> str | None:
    """Why a job is taken for one of a few-step model (a clause), or None when nothing says so.

    steps: of its first pass; at most 10 say so. names: of its checkpoints. sampler: LCM's says so. guidance: the guidance scale; at most 2
    with at most 20 steps says so, unless the model is a diffusion ``transformer``: those may have guidance in themselves. loras: names of
    the LoRAs in use. No name is in the clause.
    """
    if any(_NAMES.search(name) for name in names):
        return "its checkpoint's name says so"
    if any(_NAMES.search(name) for name in loras):
        return "the name of a LoRA says so"
    if "LCM" in sampler:
        return "its sampler is LCM"
    if steps is not None and steps <= FEW_STEPS:
        return f"{steps} steps"
    if guidance is not None and guidance <= LOW_GUIDANCE and not transformer and (steps is None or steps <= MOST_STEPS):
        return f"CFG scale {guidance:g}"
    return None


def loras_in(prompt: str) -> list[str]:
    """Names of the LoRAs in a prompt's tags (``<lora:name:weight>``), those of weight 0 left out."""
    return [name.strip() for name, weight in _LORA.findall(prompt) if weight.strip() not in ("0", "0.0")]
