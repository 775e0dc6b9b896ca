"""The accordion's header and the strip below the preset: computed here, shown by the browser.

The host translates a text of the page when it knows all of it, so every word or phrase stands alone, and numbers beside them.
"""

from __future__ import annotations

import json
from typing import Any

from ...core.fields import SettingError
from ...cost.preview import PassPreview, preview_pass, saved
from ...engine.thresholds import thresholds_for
from ...settings.few_step_models import few_step_sign
from ...settings.infotext import shown_preset
from ...settings.job import resolve, without_untouched
from ...settings.model_families import FEW_STEP
from ...settings.passes import FIRST, HIRES
from ...settings.schema import KNOBS
from ..host import facts
from ..jobs.job import LEAST
from . import user_presets
from .filling import loaded_family

KINDS = {
    "agents": "agents",
    "merging": "merged",
    "downsampling": "downsampled",
    "gated": "cross-attention cached",
    "unguided": "no negative prompt",
    "kept": "guidance direction kept",
}


def show(sizes: Any, *values: Any) -> tuple[str, str]:
    """(HTML for the header, HTML of the strip) for the controls' ``values``.

    sizes: JSON of width, height, steps, hires (0: none), hires_steps (0: as many), guidance, sampler, loras (names).
    """
    try:
        given = json.loads(sizes)
        width, height, steps = (max(int(float(given[key])), low) for key, low in (("width", 8), ("height", 8), ("steps", 1)))
        factor, again = float(given.get("hires") or 0), int(given.get("hires_steps") or 0)
        scale, sampler, loras = float(given.get("guidance") or 7), str(given.get("sampler") or ""), list(map(str, given.get("loras") or ()))
    except (ValueError, TypeError, KeyError, OverflowError):
        width, height, steps, factor, again, scale, sampler, loras = 512, 512, 20, 0.0, 0, 7.0, "", []
    own = user_presets.read()[0]
    shape = loaded_family()
    family = FEW_STEP if few_step_sign(steps, [facts.checkpoint_name()], sampler, scale, loras) else shape
    try:
        settings = resolve(without_untouched(dict(zip(KNOBS, values)), own), family, own)
    except SettingError:
        return _badge(_text("settings refused")), ""
    if settings["auto"] and not any(settings[f"least.{field}"] for field in LEAST):
        table, _ = thresholds_for(facts.device(), facts.traits().fused_kernel())
        settings = settings.replaced({f"least.{field}": table.least.get(method, 0) for field, method in LEAST.items()})
    steps = min(steps, 200)
    passes = [preview_pass(settings, FIRST, shape, width, height, steps, scale)]
    if factor > 1:
        passes.append(preview_pass(settings, HIRES, shape, int(width * factor), int(height * factor), min(again or steps, 200), scale))
    told = [] if settings["enabled"] else ["off"]
    told += [shown_preset(settings["preset"])]
    saving = f"{_text('estimate:')} {100 * saved(passes):.0f} % {_text('less time per picture')}"
    return _badge(*map(_text, told), saving), "".join(map(_strip, passes))


def _badge(*parts: str) -> str:
    return f'<span class="accel-badge">{" · ".join(parts)}</span>'


def _text(words: str) -> str:
    # A preset's name has letters, digits, spaces and hyphens only, or it would not have been resolved.
    return f"<span>{words}</span>"


def _strip(preview: PassPreview) -> str:
    cells = "".join(f'<i class="{" ".join("accel-" + kind for kind in kinds) or "accel-whole"}"></i>' for kinds in preview.steps)
    at_work = dict.fromkeys(kind for kinds in preview.steps for kind in kinds)
    said = [", ".join(_text(KINDS[kind]) for kind in at_work) or _text("every step runs whole")]
    if preview.idle:
        said.append(f"{', '.join(map(_text, preview.idle))} {_text('not worth it at this size')}")
    if preview.later:
        said.append(_text("guidance is skipped when it matters little"))
    place = f"{_text(preview.place)} {preview.width}x{preview.height}"
    return f'<div class="accel-pass"><span>{place}: {"; ".join(said)}</span><div class="accel-strip">{cells}</div></div>'
