"""Whose rows a U-Net call holds where the host marks its chunks as conditional or unconditional, as the Forge family does."""

from __future__ import annotations

from collections.abc import Sequence

from .rows import Layout, Row

# Whom a chunk's mark stands for.
ROLES = ("cond", "uncond")


class MarkedRows:
    """The chunks of one step, each handed out once: whatever comes after that is somebody else's call, whatever its marks say.

    A host of that family batches the chunks of a step as memory allows, the negative prompt first and the parts of an AND prompt
    backwards. Marks tell conditional from unconditional chunks and not which part it is.

    rows: all rows of the step; None when nobody told them, which leaves it to the marks of the step's first calls.
    """

    def __init__(self, rows: Sequence[Row] | None) -> None:
        self._told = rows is not None
        self._images = len({row.image for row in rows or ()})
        self._left: dict[str, list[list[Row]]] = {role: _chunks(rows or (), role) for role in ROLES}
        self._seen: set[str] = set()
        if self._told and not self._left["cond"]:
            # The negative prompt runs in the prompt's place.
            self._left["cond"] = self._left["uncond"]

    def take(self, count: int, marks: Sequence[str]) -> Layout | None:
        """The rows of a call of ``count`` rows; marks: the role of each of its chunks. None where these are not to be known."""
        if not marks or count % len(marks) or set(marks) - set(ROLES):
            return None
        size = count // len(marks)
        if self._told:
            if size != self._images:
                return None
        elif self._seen & set(marks) or marks.count("uncond") > 1:
            return None
        else:
            self._seen |= set(marks)
            for role in ROLES:
                self._left[role] = [[Row(role, image, part) for image in range(size)] for part in range(marks.count(role))]
        if any(marks.count(role) > len(self._left[role]) for role in ROLES):
            return None
        return Layout(row for mark in marks for row in self._left[mark].pop())


def _chunks(rows: Sequence[Row], role: str) -> list[list[Row]]:
    """The rows of ``role`` by AND part, in the order of pictures."""
    parts = sorted({row.part for row in rows if row.role == role})
    return [sorted((row for row in rows if row.role == role and row.part == part), key=lambda row: row.image) for part in parts]
