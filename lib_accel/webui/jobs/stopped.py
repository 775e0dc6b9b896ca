"""What is told of a pass that was interrupted or skipped: where it stopped, and not that settings left methods nothing to do."""

from __future__ import annotations

from typing import Any

from modules import shared

from ...core.reasons import Reason, as_data

TOO_EARLY = Reason.of("stopped_before", "the job was stopped before it could act")
# Codes of reasons that hold for the whole job, wherever it stops.
OF_THE_JOB = ("unguided_job", "forecast_instead", "adds_noise")


def was_stopped() -> bool:
    """Whether the host is ending the sampling that runs, because somebody asked it to."""
    return bool(shared.state.interrupted or shared.state.skipped)


def where(report: dict[str, Any]) -> Reason:
    """The clause that says so."""
    steps = report["steps"]
    return Reason.of("stopped", "stopped after {steps} {noun}", steps=steps, noun="step" if steps == 1 else "steps")


def told(method: dict[str, Any]) -> dict[str, Any]:
    """A method's part of a report, without its own reasons for doing nothing: these are about whole passes."""
    # Those could not have acted later either.
    if not method["idle"] or any(reason["code"] in OF_THE_JOB for reason in method["reasons"]):
        return method
    others = [reason for reason in method["reasons"] if reason["text"] != method["idle"]]
    return {**method, "idle": TOO_EARLY, "reasons": [*others, as_data(TOO_EARLY)]}
