"""The accordion's header and the strip below the preset: computed here, shown by the browser."""

from __future__ import annotations

import json
from typing import Any

from ..infotext import shown_preset
from ..job_settings import resolve, without_untouched
from ..knobs import KNOBS
from ..passes import FIRST, HIRES
from ..preview import PassPreview, preview_pass
from ..settings import SettingError
from ..thresholds import thresholds_for
from . import host, user_presets
from .filling import loaded_family
from .job import LEAST

KINDS = {
    "agents": "agents",
    "merging": "merged",
    "downsampling": "downsampled",
    "gated": "cross-attention cached",
    "unguided": "no negative prompt",
}


def show(sizes: Any, *values: Any) -> tuple[str, str]:
    """(HTML for the header, HTML of the strip) for the controls' ``values``.

    sizes: JSON of width, height, steps, hires (0: none), guidance.
    """
    try:
        given = json.loads(sizes)
        width, height, steps = (max(int(float(given[key])), low) for key, low in (("width", 8), ("height", 8), ("steps", 1)))
        factor, scale = float(given.get("hires") or 0), float(given.get("guidance") or 7)
    except (ValueError, TypeError, KeyError, OverflowError):
        width, height, steps, factor, scale = 512, 512, 20, 0.0, 7.0
    own = user_presets.read()[0]
    family = "few-step" if steps <= 10 else loaded_family()
    try:
        settings = resolve(without_untouched(dict(zip(KNOBS, values)), own), family, own)
    except SettingError:
        return _badge("settings refused", ""), ""
    if settings["auto"] and not any(settings[f"least.{field}"] for field in LEAST):
        table, _ = thresholds_for(host.device(), host.traits().fused_kernel())
        settings = settings.replaced({f"least.{field}": table.least.get(method, 0) for field, method in LEAST.items()})
    steps = min(steps, 200)
    passes = [preview_pass(settings, FIRST, family, width, height, steps, scale)]
    if factor > 1:
        passes.append(preview_pass(settings, HIRES, family, int(width * factor), int(height * factor), steps, scale))
    costs = [(p.width * p.height) ** 2 for p in passes]
    saved = sum(p.saved * cost for p, cost in zip(passes, costs)) / sum(costs)
    cells = [kinds for p in passes for kinds in p.steps]
    unguided = sum("unguided" in kinds for kinds in cells) / len(cells)
    saving = f"about {100 * saved:.0f} % less self-attention" + (f", {50 * unguided:.0f} % fewer evaluations" if unguided else "")
    name = shown_preset(settings["preset"]) if settings["enabled"] else f"off · {shown_preset(settings['preset'])}"
    return _badge(name, saving), "".join(map(_strip, passes))


def _badge(preset: str, saving: str) -> str:
    # A preset's name has letters, digits, spaces and hyphens only, or it would not have been resolved.
    return f'<span class="accel-badge">{preset}{" · " + saving if saving else ""}</span>'


def _strip(preview: PassPreview) -> str:
    cells = "".join(f'<i class="{" ".join("accel-" + kind for kind in kinds) or "accel-whole"}"></i>' for kinds in preview.steps)
    at_work = dict.fromkeys(kind for kinds in preview.steps for kind in kinds)
    words = ", ".join(KINDS[kind] for kind in at_work) or "every step runs whole"
    idle = f"; {', '.join(preview.idle)} not worth it at this size" if preview.idle else ""
    idle += "; guidance is skipped when it matters little" if preview.later else ""
    return (
        f'<div class="accel-pass"><span>{preview.place} {preview.width}x{preview.height}: {words}{idle}</span>'
        f'<div class="accel-strip">{cells}</div></div>'
    )
