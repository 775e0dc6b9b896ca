"""Errors of our own code: whoever they come from stops, the model goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ..core.errors import in_words, strict
from .contract import Runner


@contextmanager
def guarded(runners: Iterable[Runner], where: str = "") -> Iterator[None]:
    """An error inside stops ``runners`` for the rest of the job, and goes no further; ACCEL_STRICT=1 raises it.

    where: the name of the layer or stage, for the report.
    """
    try:
        yield
    except Exception as error:
        if strict():
            raise
        blame(runners, in_words(error), where)


def blame(runners: Iterable[Runner], why: str, where: str = "") -> None:
    """Stop ``runners``, whose code failed."""
    for runner in runners:
        runner.fail(f"{why} (at {where})" if where else why)
