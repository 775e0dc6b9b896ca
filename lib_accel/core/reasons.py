"""Why something was or was not done: a clause for people that carries the same as data."""

from __future__ import annotations

from typing import Any


class Reason(str):
    """A clause of the report. code: what it says, for programs; it stays when the words change. values: what is in it, by name; a reason
    in it is one of them.

    It is a text like any other: texts without a code may stand in its place.
    """

    code: str = "other"
    values: dict[str, Any] = {}

    @classmethod
    def of(cls, code: str, clause: str, **values: Any) -> Reason:
        """clause: with ``values`` in braces by their names."""
        made = cls(clause.format(**values))
        made.code, made.values = code, values
        return made


def as_data(clause: str) -> dict[str, Any]:
    """``{"code", "text", and its values}``; the code of a text without one is ``other``."""
    if not isinstance(clause, Reason):
        return {"code": "other", "text": clause}
    values = {name: as_data(value) if isinstance(value, Reason) else value for name, value in clause.values.items()}
    return {"code": clause.code, "text": str(clause), **values}
