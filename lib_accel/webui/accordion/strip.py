"""The accordion's header and the strip below the preset: computed here, shown by the browser.

The host translates a text of the page when it knows all of it, so every word or phrase stands alone, and numbers beside them.
"""

from __future__ import annotations

import json
from typing import Any

from ...core.fields import SettingError
from ...core.method import Kind
from ...cost.preview import KINDS, PassPreview, preview_pass, saved
from ...settings.few_step_models import few_step_sign
from ...settings.infotext import shown_preset
from ...settings.job import on_this_machine, resolve, without_untouched
from ...settings.model_families import FEW_STEP
from ...settings.passes import FIRST, HIRES
from ...settings.schema import KNOBS
from ..host import facts
from . import refused, user_presets
from .filling import loaded_family

# Height of a kind's line below the colour of a step, in em.
LINE = 0.2


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
    form = dict(zip(KNOBS, values))
    try:
        refused.check(form)
        settings, _ = on_this_machine(resolve(without_untouched(form, own), family, own), facts.table)
    except SettingError:
        return _badge(_text("settings refused")), ""
    steps = min(steps, 200)
    passes = [preview_pass(settings, FIRST, shape, width, height, steps, scale, sampler)]
    if factor > 1:
        larger = (int(width * factor), int(height * factor))
        passes.append(preview_pass(settings, HIRES, shape, *larger, min(again or steps, 200), scale, sampler))
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
    cells = "".join(map(_cell, preview.steps))
    at_work = dict.fromkeys(kind for kinds in preview.steps for kind in kinds)
    said = [", ".join(_mark(KINDS[kind]) + _text(KINDS[kind].label) for kind in at_work) or _text("every step runs whole")]
    if preview.idle:
        said.append(f"{', '.join(map(_text, preview.idle))} {_text('not worth it at this size')}")
    said += map(_text, preview.later)
    place = f"{_text(preview.place)} {preview.width}x{preview.height}"
    return f'<div class="accel-pass"><span>{place}: {"; ".join(said)}</span><div class="accel-strip">{cells}</div></div>'


def _mark(kind: Kind) -> str:
    return f'<b class="accel-mark" style="background: {kind.colour}"></b>'


def _cell(kinds: tuple[str, ...]) -> str:
    """One step of the strip: the colours of its kinds, and lines below them."""
    shown = [KINDS[kind] for kind in kinds]
    fills, lines = [kind.colour for kind in shown if not kind.line], [kind.colour for kind in shown if kind.line]
    style = []
    if fills:
        parts = ", ".join(f"{colour} {100 * at // len(fills)}% {100 * (at + 1) // len(fills)}%" for at, colour in enumerate(fills))
        style.append(f"background: linear-gradient({parts})")
    if lines:
        style.append("box-shadow: " + ", ".join(f"inset 0 -{LINE * (at + 1):.1f}em 0 {colour}" for at, colour in enumerate(lines)))
    names = " ".join("accel-" + kind for kind in kinds) or "accel-whole"
    return f'<i class="{names}"' + (f' style="{"; ".join(style)}"' if style else "") + "></i>"
