"""Why something was or was not done: a clause for people that carries the same as data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Reason(str):
    """A clause of the report. code: what it says, for programs; it stays when the words change. values: what is in it, by name; a reason
    in it is one of them.

    partly: what it is where it says that nothing was done and something was after all, in other steps or passes; None: the same.

    It is a text like any other: texts without a code may stand in its place.
    """

    code: str = "other"
    values: dict[str, Any] = {}
    partly: Reason | None = None

    @classmethod
    def of(cls, code: str, clause: str, **values: Any) -> Reason:
        """clause: with ``values`` in braces by their names."""
        made = cls(clause.format(**values))
        made.code, made.values = code, values
        return made

    def or_partly(self, code: str, clause: str) -> Reason:
        """This one, which says that nothing was done. code, clause: of `partly`, with the same values."""
        self.partly = Reason.of(code, clause, **self.values)
        return self


def as_true(clauses: Iterable[str], acted: bool) -> list[str]:
    """``clauses`` as they are of somebody who did something (``acted``), or nothing; sorted, each once."""
    return sorted({(getattr(clause, "partly", None) if acted else None) or clause for clause in clauses})


def as_data(clause: str) -> dict[str, Any]:
    """``{"code", "text", and its values}``; the code of a text without one is ``other``."""
    if not isinstance(clause, Reason):
        return {"code": "other", "text": clause}
    values = {name: as_data(value) if isinstance(value, Reason) else value for name, value in clause.values.items()}
    return {"code": clause.code, "text": str(clause), **values}


def data_as_true(reasons: Iterable[dict[str, Any]], clauses: Iterable[str]) -> list[dict[str, Any]]:
    """``reasons``, the data of ``clauses`` and of others, as they are of somebody who did something; each once."""
    turned = [(as_data(clause), as_data(as_true([clause], True)[0])) for clause in clauses]
    told: list[dict[str, Any]] = []
    for reason in reasons:
        reason = next((after for before, after in turned if before == reason), reason)
        told += [reason] if reason not in told else []
    return told
