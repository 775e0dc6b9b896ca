"""What the page asks the host to draw, as the browser reads it from the host's fields: passes with sizes, steps and samplers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...settings.few_step_models import loras_in
from ...settings.passes import FIRST, HIRES
from ..host import facts

# More are not drawn as a strip, and are no job that somebody waits for.
MOST_STEPS = 200
SAME_SAMPLER = "Use same sampler"
# Options by which the host leaves the negative prompt out itself; Spectrum does nothing while one of them is above 0.
WITHOUT_SPECTRUM = ("skip_early_cond", "s_min_uncond")


@dataclass(frozen=True)
class AskedPass:
    """One pass. place: `FIRST` or `HIRES`. width, height: in pixels. steps: those that are run. sampler: its name. guidance: its scale."""

    place: str
    width: int
    height: int
    steps: int
    sampler: str
    guidance: float


@dataclass(frozen=True)
class Asked:
    """A job that has not begun. steps: as they stand in the field. loras: their names. ran: whether the page shows a job that is over.
    edits: whether Prompt-to-Prompt is chosen. spectrum: whether Forge Neo's Spectrum is on and acts. tab: whose page it is."""

    passes: tuple[AskedPass, ...]
    steps: int
    guidance: float
    sampler: str
    loras: tuple[str, ...]
    ran: bool = False
    edits: bool = False
    spectrum: bool = False
    tab: str = "txt2img"


_ANYTHING = {"width": 512, "height": 512, "steps": 20}


def read(told: Any) -> Asked:
    """What the browser told (JSON); a usual job where it told nothing that can be.

    told: tab, width, height, steps, guidance, sampler, loras (their tags); of img2img denoising and size (of "Resize by", such as
    ``768x512``), None where they do not count; of the hires pass hires (0: none, else its factor), hires_size (as the host shows it, None
    where it shows none), hires_width, hires_height (0: by the other one, or by the factor), hires_steps (0: as many), hires_sampler,
    hires_guidance (None or 0: the same; the Forge family has a field for it); ran, edits and spectrum, see `Asked`.
    """
    try:
        given = json.loads(told)
        return _read(given if isinstance(given, Mapping) else _ANYTHING)
    except (ValueError, TypeError, KeyError, OverflowError, ZeroDivisionError):
        return _read(_ANYTHING)


def _read(given: Mapping[str, Any]) -> Asked:
    width, height, steps = (max(int(float(given[key])), low) for key, low in (("width", 8), ("height", 8), ("steps", 1)))
    sampler = str(given.get("sampler") or "")
    if given.get("size"):
        width, height = _sides(given["size"])
    run, guidance = steps, float(given.get("guidance") or 7)
    if given.get("denoising") is not None and not facts.option("img2img_fix_steps", False):
        # As the host counts them.
        run = int(min(float(given["denoising"]), 0.999) * steps) + 1
    passes = [AskedPass(FIRST, width, height, min(run, MOST_STEPS), sampler, guidance)]
    if float(given.get("hires") or 0):
        again = int(given.get("hires_steps") or 0) or steps
        own = str(given.get("hires_sampler") or SAME_SAMPLER)
        scale, own = float(given.get("hires_guidance") or guidance), sampler if own == SAME_SAMPLER else own
        passes.append(AskedPass(HIRES, *_hires_size(given, width, height), min(again, MOST_STEPS), own, scale))
    loras = tuple(sorted(loras_in(" ".join(map(str, given.get("loras") or ())))))
    ran, edits, spectrum = (bool(given.get(key)) for key in ("ran", "edits", "spectrum"))
    spectrum = spectrum and not any((facts.option(name, 0) or 0) > 0 for name in WITHOUT_SPECTRUM)
    tab = "img2img" if given.get("tab") == "img2img" else "txt2img"
    return Asked(tuple(passes), steps, guidance, sampler, loras, ran, edits, spectrum, tab)


def _hires_size(given: Mapping[str, Any], width: int, height: int) -> tuple[int, int]:
    """As the host shows it, which rounds it in its own way. Else what "Resize width to" and "Resize height to" say; where both are 0,
    "Upscale by"."""
    if given.get("hires_size"):
        return _sides(given["hires_size"])
    to_width, to_height = (int(float(given.get(key) or 0)) for key in ("hires_width", "hires_height"))
    if not to_width and not to_height:
        factor = float(given["hires"])
        return int(width * factor), int(height * factor)
    return to_width or to_height * width // height, to_height or to_width * height // width


def _sides(size: Any) -> tuple[int, int]:
    width, height = (max(int(side), 8) for side in str(size).split("x"))
    return width, height
