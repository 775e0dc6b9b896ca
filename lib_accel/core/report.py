"""What was really done: one honest line, made of the accounts of all methods."""

from __future__ import annotations

import dataclasses
from typing import Any

from .method import CALL, ROWS, STAGES

# What methods act on that have no layers to be counted.
_WHOLE = (ROWS, STAGES, CALL)


@dataclasses.dataclass(frozen=True)
class Report:
    """A snapshot of an accelerator's account; stays valid after the model was restored or is gone.

    ``str()`` is the one line, `as_dict` the data.
    """

    data: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return self.data

    def __str__(self) -> str:
        return f"Accel: {'; '.join(self.clauses)}."

    @property
    def rows(self) -> tuple[int, int]:
        """How many rows of U-Net calls ran, and how many would have run without any method."""
        d = self.data
        saved = sum(method["evaluations_saved"] for method in d["methods"])
        return d["rows_run"], d["rows_run"] + d["rows_served"] + saved

    @property
    def clauses(self) -> list[str]:
        """What the line is made of: the time and what ran, then what was done, then what was not and why."""
        return [self.run, *self.done, *self.left]

    @property
    def done(self) -> list[str]:
        """What each method did that did anything."""
        return [_method_clause(method, self.data) for method in self.data["methods"] if _did(method)]

    @property
    def left(self) -> list[str]:
        """What was not done, and why."""
        methods, d = self.data["methods"], self.data
        nothing = [_method_clause(method, d) for method in methods if not _did(method) and not _made_room(method, methods)]
        left = [clause for method in methods if _did(method) for clause in _left_clauses(method)]
        return nothing + ([] if methods else ["no method was given"]) + left + d["stood_down"]

    @property
    def run(self) -> str:
        """How much of the model ran, and the time that took."""
        d = self.data
        if not d["unet_calls"]:
            return f"no {d['noun']} call was seen"
        passes = f"{d['passes']} passes, " if d["passes"] > 1 else ""
        calls = _counted(d["unet_calls"], f"{d['noun']} call")
        calls = f"{d['calls_run']} of {calls} run" if d.get("calls_served") else calls
        ran, whole = self.rows
        rows = f" ({ran} of {whole} row evaluations)" if ran < whole else ""
        return f"{passes}{_counted(d['steps'], 'step')}, {calls} in {d['seconds']:.2f} s{rows}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _did(method: dict[str, Any]) -> bool:
    """Whether a method changed anything."""
    return bool(method["layers"] or method["evaluations_saved"] or method["served"] or method["shallow_steps"])


def _made_room(method: dict[str, Any], methods: list[dict[str, Any]]) -> bool:
    """Whether there is nothing to say of it but what the line tells of others of ``methods``: one acted in its place, or did nothing for
    the same reasons as this one, which is there in case alone."""
    if [reason["code"] for reason in method["reasons"]] == ["forecast_instead"]:
        return True
    others = (other for place, other in enumerate(methods) if not _in_case(other) or place < methods.index(method))
    told = [reason for other in others for reason in other["reasons"]]
    return _in_case(method) and bool(method["reasons"]) and all(reason in told for reason in method["reasons"])


def _in_case(method: dict[str, Any]) -> bool:
    return bool(method["changed"].get("only_where_better"))


def _left_clauses(method: dict[str, Any]) -> list[str]:
    """Where, or at times, a method that did something left layers as they were."""
    return [f"{method['method']} off on {count} layers: {reason}" for reason, count in method["stood_down"].items()]


def _method_clause(method: dict[str, Any], whole: dict[str, Any]) -> str:
    effects = ", ".join(f"{effect} on {count}" for effect, count in method["layers_by_effect"].items())
    if effects:
        clause = f"{method['method']}: {effects} of {whole['sites']} layers for {method['steps']} of {whole['steps']} steps"
    elif not _did(method):
        on_layers = method["acts_on"] not in _WHOLE and whole["sites"]
        clause = f"{method['method']}: 0 of {whole['sites']} layers" if on_layers else f"{method['method']}: nothing"
    else:
        clause = f"{method['method']}:"
    more = []
    for words, steps in (
        ("no guidance", method["unguided_steps"]),
        ("guidance direction kept", method["kept_direction_steps"]),
        ("deep stages reused", method["shallow_steps"]),
    ):
        if steps:
            more.append(f"{words} for {steps} of {whole['steps']} steps")
    if method["served"]:
        more.append(_forecast_words(method, whole))
    if method["evaluations_saved"]:
        more.append(f"{method['evaluations_saved']} evaluations saved")
    if method["cache_bytes"] and _did(method):
        more.append(f"{method['cache_bytes'] / 2**20:.1f} MiB kept")
    clause += (", " if effects and more else " " if more else "") + ", ".join(more)
    notes = [method["idle"]] if method["idle"] and not method["notes"] else []
    notes += list(method["notes"]) + ([f"off: {method['off']}"] if method["off"] else [])
    if not _did(method):
        notes += [f"{reason} ({count} layers)" for reason, count in method["stood_down"].items()]
    if method["failed"]:
        notes.append(f"switched off after an error: {method['failed']}")
    return clause + (f" [{'; '.join(notes)}]" if notes else "")


def _forecast_words(method: dict[str, Any], whole: dict[str, Any]) -> str:
    """How many steps were forecast in all passes, by picture where they differ."""
    counts: dict[int, list[int]] = {}
    for one in method["served"]:
        counts.setdefault(one["pass"], []).append(len(one["steps"]))
    before = method.get("served_before", (0, 0))
    least, most = (so_far + sum(map(extreme, counts.values())) for so_far, extreme in zip(before, (min, max)))
    of_all = f"of {whole['steps']} steps forecast"
    return f"{most} {of_all}" if least == most else f"{least} to {most} {of_all}, by picture"
