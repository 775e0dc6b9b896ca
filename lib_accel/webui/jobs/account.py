"""The account of a whole job: its passes' reports, what stood down and why, as one line and as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.model_words import UNET, told_of
from ...core.reasons import as_data, as_true, data_as_true
from ...core.report import Report
from ...cost.estimate import decoding_work
from ...cost.preview import PassPreview
from ...methods.registry import with_least
from ...settings.infotext import shown_preset
from ...settings.job import Settings
from ...settings.presets import PRESETS
from . import stopped

# Below this nothing is said to be saved.
NOTHING = 1.005

# What reports of parts of a job add up to, as wholes and by method.
COUNTS = (
    *("unet_calls", "calls_run", "calls_served", "calls_measured", "stages_run", "stages_served"),
    *("rows", "rows_run", "rows_served", "passes", "steps", "seconds"),
)
METHOD_COUNTS = (
    *("steps", "layer_calls", "tokens_in", "tokens_run", "unguided_steps", "kept_direction_steps", "evaluations_saved"),
    *("shallow_steps", "rows_shallow"),
)


class Account:
    """Collects while a job runs. settings: those it runs by; None for a job that bad values switched off."""

    def __init__(self, settings: Settings | None, complaint: str | None = None) -> None:
        self.settings = settings
        self.complaint = complaint
        # What the model that is at work now is called.
        self.noun = UNET
        self.passes: list[tuple[str, dict[str, Any]]] = []
        self.notes: dict[str, list[str]] = {}
        self.places: dict[str, None] = {}
        self.sizes: dict[str, tuple[int, int]] = {}
        self.ran: list[PassPreview] = []
        self._batch: Account | None = None

    def begin_batch(self) -> None:
        """What comes now belongs to the next pictures, which have an account of their own, too."""
        self._batch = Account(self.settings, self.complaint)
        self._batch.notes = {place: list(texts) for place, texts in self.notes.items() if not place}

    @property
    def of_batch(self) -> Account:
        """The account of the pictures that are drawn now, or were drawn last."""
        return self if self._batch is None else self._batch

    def add(
        self,
        place: str,
        report: Report,
        size: tuple[int, int] | None = None,
        goes_on: bool = False,
        ran: Sequence[PassPreview] = (),
    ) -> None:
        """A pass ended, or its part with one model. size: of its pictures, (width, height). goes_on: a part of it was added before.
        ran: its steps and its work, once or for each picture; empty where nobody knows."""
        self.places[place] = None
        # One pass of the host's, however often its model changed.
        work = (ran[0].work, ran[0].plain) if ran else None
        data = {**report.as_dict(), "passes": 0 if goes_on else 1, "work": work}
        number = sum(earlier["passes"] for where, earlier in self.passes if where == place) + data["passes"]
        data["methods"] = [_numbered(method, number) for method in data["methods"]]
        if stopped.was_stopped():
            data["methods"] = list(map(stopped.told, data["methods"]))
            self.note(place, stopped.where(data))
        self.passes.append((place, data))
        self.ran += ran
        if size is not None:
            self.sizes[place] = size
        if self._batch is not None:
            self._batch.add(place, report, size, goes_on, ran)

    @property
    def times_as_fast(self) -> float | None:
        """How many times as fast the pictures were drawn, by estimate; None where nobody knows."""
        works = [report["work"] for _, report in self.passes]
        if not works or None in works or not self.sizes:
            return None
        width, height = list(self.sizes.values())[-1]
        # Once for a picture, which has a pass of each place, some in parts.
        pictures = max(1, sum(report["passes"] for _, report in self.passes) // max(1, len(self.sizes)))
        decoding = pictures * decoding_work(max(height // 8, 1), max(width // 8, 1))
        done, whole = (sum(work[at] for work in works) + decoding for at in (0, 1))
        return whole / max(done, 1.0)

    def note(self, place: str, text: str) -> None:
        """Something to tell about the passes of ``place`` (``""``: about the job), once."""
        text = told_of(self.noun, text)
        if place:
            self.places[place] = None
        notes = self.notes.setdefault(place, [])
        if text not in notes:
            notes.append(text)
        if self._batch is not None:
            self._batch.note(place, text)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON. Holds no prompt."""
        return {
            "line": str(self),
            "preset": self.settings["preset"] if self.settings and self.settings["enabled"] else None,
            "settings": self.settings.changed() if self.settings else None,
            "complaint": self.complaint,
            "times_as_fast": self.times_as_fast,
            "passes": [{"place": place, "report": report} for place, report in self.passes],
            "notes": {place: list(texts) for place, texts in self.notes.items()},
            "reasons": {place: [as_data(text) for text in texts] for place, texts in self.notes.items()},
        }

    def __str__(self) -> str:
        return self._line(whole=True)

    @property
    def short(self) -> str:
        """The line without what the settings tell as well: the time and what was saved, and what was not done and why."""
        return self._line(whole=False)

    def _line(self, whole: bool) -> str:
        clauses, notes = [], list(self.notes.get("", []))
        for place in self.places:
            parts = self._of_passes(place, whole) + self.notes.get(place, [])
            clauses.append((f"{place}: " if len(self.places) > 1 else "") + "; ".join(parts))
        clauses += notes
        if self.complaint or self.settings is None:
            return " ".join([f"Accel is off for this job: {self.complaint}", *(["; ".join(clauses) + "."] if clauses else [])])
        preset = f" {shown_preset(self.settings['preset'])}" if self.settings["enabled"] else ""
        gain = self.times_as_fast if self.settings["enabled"] else None
        faster = [] if gain is None else [f"{gain:.1f}x est." if gain >= NOTHING else "no time saved (est.)"]
        return f"Accel{preset}: " + ", ".join([*faster, "; ".join(clauses) or "no pass was seen"]) + "."

    def _of_passes(self, place: str, whole: bool = True) -> list[str]:
        reports = [report for where, report in self.passes if where == place]
        if not reports:
            return []
        merged = _merged(reports)
        idle = _idle(merged)
        told = {**merged, "methods": [method for method in merged["methods"] if method not in idle and not self._is_not_missed(method)]}
        report = Report(told)
        done = report if whole else Report({**told, "methods": list(filter(_tells, told["methods"]))})
        clauses = [report.run, *done.done, *report.left]
        if len(told["methods"]) < len(merged["methods"]):
            # Without a method nothing else is said to have been given.
            clauses = [clause for clause in clauses if clause != "no method was given"]
        if idle:
            width, height = self.sizes.get(place, (0, 0))
            clauses.append(f"{', '.join(method['method'] for method in idle)} off at {width}x{height}: {_why_idle(idle)}")
        return clauses

    def _is_not_missed(self, method: dict[str, Any]) -> bool:
        """Whether it found no guidance to leave out, as in every job of Flux, or is not for samplers that add noise, and a preset chose it:
        nobody waits to read of it."""
        by_preset = self.settings is not None and self.settings["preset"].lower() in PRESETS
        return by_preset and [reason["code"] for reason in method["reasons"]] in (["unguided_job"], ["adds_noise"])

    def take(self, other: Account) -> None:
        """What ``other``, the account of another job of the same kind, tells is told by this one too."""
        self.complaint = self.complaint or other.complaint
        self.places.update(other.places)
        self.sizes.update(other.sizes)
        self.passes += other.passes
        for place, texts in other.notes.items():
            for text in texts:
                self.note(place, text)


def _numbered(method: dict[str, Any], number: int) -> dict[str, Any]:
    """What a report tells of a method, its steps as those of the host's pass ``number``."""
    return {**method, **{name: _of_pass(method[name], number) for name in ("served", "shallow_in")}}


def _of_pass(served: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """The steps that were served to every picture, whatever passes the engine made of the host's pass ``number``."""
    steps: dict[int, set[int]] = {}
    for one in served:
        steps.setdefault(one["picture"], set()).update(one["steps"])
    return [{"pass": number, "picture": picture, "steps": sorted(found)} for picture, found in sorted(steps.items())]


def _idle(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The methods that the size alone kept from acting: told of together, once."""
    names = [method.__name__ for method in with_least().values()]
    return [
        method
        for method in report["methods"]
        if method["method"] in names
        and method["too_small"]
        and not (method["layers"] or method["failed"] or method["off"] or method["notes"])
    ]


def _tells(method: dict[str, Any]) -> bool:
    """Whether a method did what its settings do not tell: steps were chosen by the picture, or something went another way."""
    return bool(method["served"] or method["notes"] or method["failed"] or method["off"])


def _why_idle(idle: list[dict[str, Any]]) -> str:
    """The reasons, each once."""
    return "; ".join(dict.fromkeys(reason for method in idle for reason in method["stood_down"]))


def _together(served: list[dict[str, Any]], more: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Steps that were served, of reports of the same place."""
    found: dict[tuple[int, int], set[int]] = {}
    for one in [*served, *more]:
        found.setdefault((one["pass"], one["picture"]), set()).update(one["steps"])
    return [{"pass": number, "picture": picture, "steps": sorted(steps)} for (number, picture), steps in sorted(found.items())]


def _merged(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Reports of the same place (the batches of a job, or the parts of a pass between two checkpoints) as one."""
    whole = dict(reports[0])
    for other in reports[1:]:
        for count in COUNTS:
            whole[count] += other[count]
        whole["sites"] = max(whole["sites"], other["sites"])
        whole["stood_down"] = sorted({*whole["stood_down"], *other["stood_down"]})
        whole["reasons"] = _all_of(whole["reasons"], other["reasons"])
        methods = [dict(method) for method in whole["methods"]]
        for method in other["methods"]:
            same = next((m for m in methods if (m["method"], m["settings"]) == (method["method"], method["settings"])), None)
            if same is None:
                methods.append(method)
                continue
            for count in METHOD_COUNTS:
                same[count] += method[count]
            for most in ("layers", "too_small", "cache_bytes"):
                same[most] = max(same[most], method[most])
            for steps in ("served", "shallow_in"):
                same[steps] = _together(same[steps], method[steps])
            same["notes"] = sorted({*same["notes"], *method["notes"]})
            same["reasons"] = _all_of(same["reasons"], method["reasons"])
            for counts in ("layers_by_effect", "stood_down"):
                same[counts] = {k: max(same[counts].get(k, 0), method[counts].get(k, 0)) for k in {**same[counts], **method[counts]}}
            for word in ("failed", "off", "idle"):
                same[word] = same[word] or method[word]
            if same["layers"] or same["evaluations_saved"] or same["served"] or same["shallow_steps"]:
                # It had something to do in one of them.
                same["idle"] = None
                same["reasons"] = data_as_true(same["reasons"], same["notes"])
                same["notes"] = as_true(same["notes"], True)
        whole["methods"] = methods
    return whole


def _all_of(reasons: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The reasons of both, each once."""
    return reasons + [reason for reason in others if reason not in reasons]
