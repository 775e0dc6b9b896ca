"""The accordion's header, the sentence below the preset and the strip of steps: computed here, shown by the browser.

The host translates a text of the page when it knows all of it, so every word or phrase stands alone, and numbers beside them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from html import escape
from typing import Any

from ...core.fields import SettingError
from ...core.method import Kind, Method
from ...core.samplers import SAMPLERS, Sampler, sampler_named
from ...cost.preview import KINDS, PassPreview, preview_pass, times_as_fast
from ...methods.deep_cache import SHALLOW
from ...settings.few_step_models import few_step_sign
from ...settings.infotext import shown_preset
from ...settings.job import Settings, on_this_machine, resolve, without_untouched
from ...settings.model_families import TRANSFORMER, with_steps
from ...settings.passes import HIRES, methods_for, without_methods
from ...settings.presets import PRESETS
from ...settings.schema import KNOBS, by_label
from ..host import facts
from ..host import family as webuis
from ..host.levels import foreseen
from ..jobs.job import NO_PASS
from ..jobs.session import SESSION
from . import asked, beforehand, refused, user_presets
from .asked import Asked, AskedPass
from .filling import loaded_family, plain, sentence_of
from .marks import changed_knobs, idle_knobs

# Height of a kind's line below the colour of a step, in em.
LINE = 0.3
# Strips of pictures that were drawn.
MOST_RAN = 4
# Below this nothing is said to be faster.
NOTHING = 1.005
NOT_FASTER = "not faster here"
NOT_FORECAST = "Steps cannot be forecast with this sampler, so less is saved"
STAGES_INSTEAD = "Steps cannot be forecast with this sampler; DeepCache is used instead"
EDITS = "Prompt-to-Prompt is on: steps in which it edits attention always run, so less is saved than shown"
UNET_EVALUATIONS = "U-Net row evaluations"
EVALUATIONS = {TRANSFORMER: "transformer row evaluations"}
LEFT_ALONE = "With few steps presets leave this model as it is."
FEW_STEPS = "With few steps this preset uses only the following, not the settings below:"


def show(told: Any, *values: Any) -> tuple[str, str, str]:
    """(HTML for the header, HTML of the strip, the sentence below the preset) for the controls' ``values``. told: see `asked.read`."""
    job, form, own = asked.read(told), dict(zip(KNOBS, values)), user_presets.read()[0]
    shape = loaded_family()
    steps = None if facts.is_adaptive(job.sampler) else job.steps
    few = few_step_sign(steps, [facts.checkpoint_name()], job.sampler, job.guidance, job.loras, shape == TRANSFORMER)
    family = with_steps(shape, few)
    try:
        refused.check(form)
        settings = _settings(without_untouched(form, own), family, own)
    except SettingError as error:
        return _badge(_text("settings refused")), "", plain(by_label(str(error)))
    left_alone = PRESETS if few and shape == TRANSFORMER else ()
    name = settings["preset"]
    acting = without_methods(settings) if name.lower() in left_alone else settings
    passes = _passes(acting, job, shape)
    sentence = sentence_of(name)
    if name.lower() in left_alone:
        sentence = LEFT_ALONE
    elif few and name.lower() in PRESETS:
        sentence = f"{FEW_STEPS} {', '.join(_titles(settings)) or '-'}"
    gains = {name: f"{gain:.1f}x" for name, gain in _gains(form, own, family, job, shape, left_alone).items() if gain >= NOTHING}
    # The Forge family loads a checkpoint with the first job.
    waiting = facts.loaded_model() is None and not webuis.family().forge
    marks = {"idle": idle_knobs(settings), "changed": changed_knobs(settings, family, own)}
    data = _data(gains=gains, **marks, waiting=waiting, family=shape)
    strips = (
        "".join(_strip(preview, shape) for preview in passes)
        + _noted(acting, job, shape, passes)
        + (_ran(job.tab, shape) if job.ran else "")
    )
    return _header(settings, passes), strips + data, sentence


def _ran(tab: str, shape: str) -> str:
    """The pictures of this tab that were drawn last, as they were."""
    ran = SESSION.ran.get(tab)
    if not ran:
        return ""
    strips = "".join(_strip(preview, shape) for preview in ran[:MOST_RAN])
    return f'<details class="accel-ran" open><summary>{_text("Last picture, as it ran")}</summary>{strips}</details>'


def _settings(given: Mapping[str, Any], family: str, own: Mapping[str, Any]) -> Settings:
    return on_this_machine(resolve(given, family, own), facts.table)[0]


def _passes(settings: Settings, job: Asked, shape: str) -> list[PassPreview]:
    def preview(p: AskedPass) -> PassPreview:
        given = {"guided": facts.runs_both(p.guidance), "becomes": beforehand.becoming(p, job)}
        return preview_pass(settings, p.place, shape, p.width, p.height, p.steps, p.guidance, foreseen(p.sampler), **given)

    return [preview(p) for p in job.passes]


def _gains(
    form: Mapping[str, Any], own: Mapping[str, Any], family: str, job: Asked, shape: str, left_alone: Collection[str]
) -> dict[str, float]:
    """How many times as fast each preset would draw the job, by the preset's name on the page. left_alone: presets that do nothing."""
    kept = {name: form[name] for name in ("first_pass", "auto", "drop_at_one") if name in form}
    gains = {}
    for name in (*PRESETS, *own):
        if name in left_alone:
            continue
        try:
            settings = _settings({**(kept if name in PRESETS else {}), "preset": name}, family, own)
            gains[shown_preset(name)] = times_as_fast(_passes(settings, job, shape))
        except SettingError:
            continue
    return gains


def _titles(settings: Settings) -> list[str]:
    """What the methods of a job's passes are called."""
    return list(dict.fromkeys(method.declaration.title for method in methods_for(settings, HIRES)[0]))


def _header(settings: Settings, passes: list[PassPreview]) -> str:
    name, gain = _text(shown_preset(settings["preset"])), times_as_fast(passes)
    if gain < NOTHING:
        faster = _text("nothing accelerated" if _idle(settings, passes) else NOT_FASTER)
        return _badge(*([] if settings["enabled"] else [_text("off")]), name, faster)
    if settings["enabled"]:
        return _badge(name, f"{_text('about')} {gain:.1f}x {_text('as fast')}")
    return _badge(_text("off"), f"{name} {_text('would be about')} {gain:.1f}x {_text('as fast')}")


def _idle(settings: Settings, passes: Iterable[Any]) -> bool:
    """Whether there is no pass that Accel acts in."""
    return not settings["first_pass"] and all(p.place != HIRES for p in passes)


def _noted(settings: Settings, job: Asked, shape: str, passes: Iterable[PassPreview]) -> str:
    notes = [NO_PASS] * _idle(settings, job.passes)
    instead = any(SHALLOW in kinds for preview in passes for kinds in preview.steps)
    notes += [STAGES_INSTEAD if instead else NOT_FORECAST] * (not job.spectrum and any(_misses(settings, p, shape) for p in job.passes))
    notes += [EDITS] * job.edits
    notes += beforehand.notes(settings, job)
    return "".join(f'<div class="accel-notes">{_text(note)}</div>' for note in notes)


def _misses(settings: Settings, asked_pass: AskedPass, shape: str) -> bool:
    """Whether steps of a pass would be forecast with another sampler, and are not with the one that is chosen."""
    name = asked_pass.sampler
    chosen = sampler_named(foreseen(name)) or Sampler(name, known=False)

    def forecasts(method: Method, sampler: Sampler) -> bool:
        alone = shape == TRANSFORMER and method.leaves_flow_alone(asked_pass.steps, sampler.name)
        return method.forecasts(asked_pass.steps, sampler) and not alone

    methods = [method for method in methods_for(settings, asked_pass.place)[0] if not forecasts(method, chosen)]
    return bool(name) and any(forecasts(method, other) for method in methods for other in SAMPLERS.values())


def _data(**told: Any) -> str:
    """For the browser, which marks presets and knobs with it."""
    return f'<div class="accel-hidden accel-told" data-told="{escape(json.dumps(told))}"></div>'


def _badge(*parts: str) -> str:
    return f'<span class="accel-badge">{" · ".join(parts)}</span>'


def _text(words: str) -> str:
    # A preset's name has letters, digits, spaces and hyphens only, or it would not have been resolved.
    return f"<span>{words}</span>"


def _strip(preview: PassPreview, shape: str) -> str:
    total = len(preview.steps)
    cells = "".join(_cell(kinds, step, total) for step, kinds in enumerate(preview.steps, 1))
    gain = preview.plain / max(preview.work, 1e-9)
    # Without text encoding and decoding, which the header counts.
    faster = f"{_text('sampling about')} {gain:.1f}x {_text('as fast')}" if gain >= NOTHING else _text(NOT_FASTER)
    numbers = [faster, f"{preview.rows:g}/{preview.rows_of_step * total} {_text(EVALUATIONS.get(shape, UNET_EVALUATIONS))}"]
    head = f"{_text(preview.place)} {preview.width}x{preview.height}, {total} {_text('steps')}: {', '.join(numbers)}"
    notes = []
    if preview.idle:
        notes.append(f"{', '.join(_text(KINDS[kind].label) for kind in preview.idle)}: {_text('not worth it at this size')}")
    notes += [*map(_text, preview.later), *(f"{_text(words)} {number}" for words, number in preview.limits)]
    return (
        f'<div class="accel-pass"><div>{head}</div><div class="accel-strip">{cells}</div>'
        f'<div class="accel-legend">{_legend(preview.steps)}</div>'
        + "".join(f'<div class="accel-notes">{note}</div>' for note in notes)
        + "</div>"
    )


def _legend(steps: Iterable[tuple[str, ...]]) -> str:
    """What each colour means, and in how many steps it is."""
    counts: dict[str, int] = {}
    for kinds in steps:
        for kind in kinds or ("",):
            counts[kind] = counts.get(kind, 0) + 1
    whole = counts.pop("", 0)
    keys = [f"{_mark(KINDS[kind])}{_text(KINDS[kind].label)} {count}" for kind, count in counts.items()]
    if whole:
        keys.append(f'<b class="accel-mark"></b>{_text("whole step")} {whole}')
    return "".join(f'<span class="accel-key">{key}</span>' for key in keys)


def _mark(kind: Kind) -> str:
    line = " accel-line" if kind.line else ""
    return f'<b class="accel-mark{line}" style="background: {kind.colour}"></b>'


def _cell(kinds: tuple[str, ...], step: int, total: int) -> str:
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
    title = f"{step}/{total}: {', '.join(kind.label for kind in shown) or 'whole step'}"
    return f'<i class="{names}" title="{title}"' + (f' style="{"; ".join(style)}"' if style else "") + "></i>"
