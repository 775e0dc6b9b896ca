"""How many steps something happened in."""

from __future__ import annotations


class StepCount:
    """Counts each step once, however often it is added. Passes come one after another: of those that are over the number alone is kept, so
    that a model that stays accelerated for days needs no more memory.
    """

    def __init__(self) -> None:
        self._pass: int | None = None
        self._steps: set[int] = set()
        self._before = 0

    def add(self, pass_and_step: tuple[int, int]) -> None:
        """It happened in this step: (number of the pass, step index)."""
        number, step = pass_and_step
        if number != self._pass:
            self._before += len(self._steps)
            self._pass, self._steps = number, set()
        self._steps.add(step)

    @property
    def last(self) -> int:
        """The index of the furthest step of the last pass; -1 before any."""
        return max(self._steps, default=-1)

    def __len__(self) -> int:
        return self._before + len(self._steps)
