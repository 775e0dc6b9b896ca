"""A look ahead: which steps of a pass run whole, reduced or on one row, and about how much work that saves.

An estimate (see `estimate`); what was really done is the report's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.method import CALL, STAGES, TOKENS, Kind, Method, Schedule
from ..core.samplers import sampler_named
from ..core.work import StepWork
from ..methods.registry import METHODS, with_least
from ..ops.levels import grid_at
from ..settings.job import Settings
from ..settings.passes import methods_for
from .estimate import SHAPES, decoding_work, step_work

KINDS: dict[str, Kind] = {kind.name: kind for method in METHODS for kind in method.declaration.kinds}


@dataclass(frozen=True)
class PassPreview:
    """steps: for each step the names of the kinds at work (see `KINDS`), none where it runs whole. work, plain: multiply-adds of the pass,
    and of the same without Accel. rows: rows of U-Net calls that run for one picture, of `rows_of_step` in each step. idle: kinds that the
    size makes stand down. later: whether more may turn out to be at work while the pass runs: what methods say of it."""

    place: str
    width: int
    height: int
    steps: tuple[tuple[str, ...], ...]
    work: float
    plain: float
    rows: float = 0.0
    idle: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    limits: tuple[tuple[str, str], ...] = ()
    rows_of_step: int = 2


def preview_pass(
    settings: Settings,
    place: str,
    shape: str,
    width: int,
    height: int,
    steps: int,
    scale: float | None = None,
    sampler: str = "",
    only: Callable[[Method], bool] = lambda method: True,
    guided: bool = True,
    becomes: Callable[[Method], Method | None] = lambda method: method,
    ran: Callable[[Method], Schedule | None] = lambda method: None,
    seen: bool = False,
) -> PassPreview:
    """What ``settings`` would do in a pass of ``steps`` steps at ``width`` x ``height`` pixels. shape: the model's, one of
    `estimate.SHAPES`. scale: the guidance scale. sampler: its name. only: which of its methods count.
    guided: whether its steps run the negative prompt without Accel; some hosts leave it out at scale 1. becomes: what a method is in the
    circumstances of the pass; None: it is off. ran: in which steps it really was at work, where that is known.
    seen: whether all that count were at work, whatever was to be expected."""
    scale, base = (scale, 2) if guided else (None, 1)
    given = tuple(filter(None, map(becomes, methods_for(settings, place, scale)[0])))
    unet, latent = SHAPES[shape], (max(height // 8, 1), max(width // 8, 1))
    named = sampler_named(sampler) or ""
    if unet.calls_alone and named:
        named = named.on_flow()
    chosen = tuple(method for method in given if only(method) and (seen or not method.stands_aside(given, steps, named)))
    if unet.calls_alone:
        chosen = tuple(method for method in chosen if not method.runner().acts_inside and not method.leaves_flow_alone(steps, named))
    h, w = grid_at(*latent, min(unet.levels))
    least = {method: settings[f"least.{group}"] if settings["auto"] else 0 for group, method in with_least().items()}
    acting = [method for method in chosen if h * w >= least.get(type(method), 0)]
    told = scale if settings["drop_at_one"] else None
    schedules = [ran(method) or method.schedule_beside(acting, steps, told, named) for method in acting]
    known: dict[Any, tuple[float, float]] = {}
    kinds, work, rows = [], 0.0, 0.0
    for step in range(steps):
        now = tuple((method, _saving(method, schedule.kinds[step], base)) for method, schedule in zip(acting, schedules))
        now = tuple(one for one in now if one[1])
        # Where the whole call is served nothing else is at work.
        now = tuple(one for one in now if one[0].declaration.acts_on == CALL) or now
        if now not in known:
            known[now] = step_work(unet, *latent, now, least, base), _rows(now, base)
        work, rows = work + known[now][0], rows + known[now][1]
        kinds.append(tuple(dict.fromkeys(kind for _, at_work in now for kind in at_work)))
    for method, schedule in zip(acting, schedules):
        if schedule.again:
            all_kinds = tuple(kind.name for kind in method.declaration.kinds)
            work += schedule.again * step_work(unet, *latent, ((method, all_kinds),), least, base)
    idle = (kind.name for method in chosen if method not in acting for kind in method.declaration.kinds)
    later = (method.declaration.later for method, schedule in zip(acting, schedules) if schedule.later)
    limits = tuple(dict.fromkeys(limit for limit in (method.limit() for method in acting) if limit))
    plain = steps * step_work(unet, *latent, rows=base)
    return PassPreview(
        place, width, height, tuple(kinds), work, plain, rows, tuple(dict.fromkeys(idle)), tuple(dict.fromkeys(later)), limits, base
    )


def _saving(method: Method, kinds: tuple[str, ...], rows: int) -> tuple[str, ...]:
    """Those of ``kinds`` that save anything of a step of so many rows: where one runs, none is left out beside it."""
    if rows > 1:
        return kinds
    return tuple(kind for kind in kinds if _rows(((method, (kind,)),)) != 1)


def _rows(at_work: tuple[Any, ...], rows: int = 2) -> float:
    """How many of a picture's rows run, on average."""
    step = StepWork(rows)
    for method, kinds in at_work:
        method.spare_step(step, kinds)
    return step.rows


def saved(passes: list[PassPreview]) -> float:
    """The part of a whole picture's work (its passes, and decoding it) that is not done, 0 to 1."""
    decoding = decoding_work(max(passes[-1].height // 8, 1), max(passes[-1].width // 8, 1))
    return 1 - (sum(p.work for p in passes) + decoding) / (sum(p.plain for p in passes) + decoding)


def times_as_fast(passes: list[PassPreview]) -> float:
    """How many times as fast the whole picture is drawn."""
    return 1 / max(1 - saved(passes), 1e-6)


def ran_pass(
    report: Mapping[str, Any],
    rows: tuple[int, int],
    settings: Settings,
    place: str,
    shape: str,
    size: tuple[int, int],
    sampler: str,
    guided: bool = True,
) -> list[PassPreview]:
    """The same of a pass that ran, by its account: once, or for each picture where other steps were served.

    report: its account. rows: those that ran of those that there would have been. size: (width, height) of its pictures. Rows, and steps
    that were served as a whole, are as they were counted; what a row costs where methods act inside of it is estimated, of those that
    the account has seen at work.
    """
    steps = max(report["steps"], 1)
    # Behind a refiner's switch a part of a pass has an account of its own.
    begin = max(report["last_step"] + 1 - steps, 0)
    acted = {method["method"] for method in report["methods"] if method["layers"] or method["shallow_steps"] or method["evaluations_saved"]}

    def seen(method: Method) -> bool:
        return type(method).__name__ in acted and method.declaration.acts_on != CALL

    own = range(begin, begin + steps)
    given = {"sampler": sampler, "guided": guided, "seen": True, "ran": lambda method: _shallow(method, report, own)}
    shown = preview_pass(settings, place, shape, *size, steps, only=seen, **given)
    inside = preview_pass(
        settings, place, shape, *size, steps, only=lambda m: seen(m) and m.declaration.acts_on in (TOKENS, STAGES), **given
    )
    part = rows[0] / max(rows[1], 1)
    # A step's shallow stages, as often as they ran once more behind whole calls.
    again = steps * report["calls_measured"] / max(report["unet_calls"], 1)
    if again:
        given["ran"] = lambda method: Schedule((tuple(kind.name for kind in method.declaration.kinds),))
        # Also where none was shallow in the end.
        again *= preview_pass(settings, place, shape, *size, 1, only=lambda m: m.declaration.acts_on == STAGES, **given).work
    counted = shown.rows_of_step * steps * part
    whole = replace(shown, work=inside.work * part + again, plain=inside.plain, rows=counted, idle=(), later=(), limits=())
    courses = _courses(report["methods"], shown.steps, begin)
    return [replace(whole, steps=course) for course in dict.fromkeys(courses)] or [whole]


def _shallow(method: Method, report: Mapping[str, Any], steps: range) -> Schedule | None:
    """The ``steps`` of a pass in which ``method`` served stages; None where it serves none."""
    if method.declaration.acts_on != STAGES:
        return None
    mine = (one for one in report["methods"] if one["method"] == type(method).__name__)
    found = {step for one in mine for part in one["shallow_in"] for step in part["steps"]}
    kinds = tuple(kind.name for kind in method.declaration.kinds)
    return Schedule(tuple(kinds if step in found else () for step in steps))


def _courses(methods: Sequence[Mapping[str, Any]], steps: tuple[tuple[str, ...], ...], begin: int) -> Iterable[tuple[tuple[str, ...], ...]]:
    """For each picture the kinds of each step, where ``steps`` are those of all pictures together: what was shallow for some pictures alone
    ran for the others, and where a step was served nothing else was at work."""
    served, shallow = (_by_picture(methods, name, begin) for name in ("served", "shallow_in"))
    for picture in sorted(served.keys() | shallow.keys()):
        course = list(steps)
        for kinds, found in shallow.get(picture, {}).items():
            course = [now if step in found else tuple(kind for kind in now if kind not in kinds) for step, now in enumerate(course)]
        for kinds, found in served.get(picture, {}).items():
            course = [kinds if step in found else now for step, now in enumerate(course)]
        yield tuple(course)


def _by_picture(methods: Iterable[Mapping[str, Any]], name: str, begin: int) -> dict[int, dict[tuple[str, ...], set[int]]]:
    """For each picture the steps, counted from ``begin``, that each method's kinds were at work in. name: of these steps in its account. A
    pass may be in parts, which another checkpoint divides."""
    pictures: dict[int, dict[tuple[str, ...], set[int]]] = {}
    for method in methods:
        for one in method[name]:
            known = next(known for known in METHODS if known.__name__ == method["method"])
            kinds = tuple(kind.name for kind in known.declaration.kinds)
            found = pictures.setdefault(one["picture"], {}).setdefault(kinds, set())
            found.update(step - begin for step in one["steps"])
    return pictures
