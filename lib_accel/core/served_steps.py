"""In which steps a method served calls, by pass and picture."""

from __future__ import annotations

from typing import Any

# Of passes before these the sums alone are kept, so that a model that stays accelerated for days needs no more memory.
PASSES_KEPT = 256


class ServedSteps:
    def __init__(self) -> None:
        # Pass -> picture -> steps; empty for a picture all of whose calls ran.
        self._passes: dict[int, dict[int, set[int]]] = {}
        self._before = (0, 0)

    def add(self, pass_and_step: tuple[int, int], picture: int, ran: bool = False) -> None:
        """The call of ``picture`` (from 0) was served in this step: (number of the pass, step index); or it ran, if only in part."""
        number, step = pass_and_step
        steps = self._passes.setdefault(number, {}).setdefault(picture, set())
        if ran:
            steps.discard(step)
        else:
            steps.add(step)
        if len(self._passes) > PASSES_KEPT:
            oldest = self._passes.pop(min(self._passes))
            self._before = tuple(before + extreme for before, extreme in zip(self._before, _least_and_most(oldest)))

    def __bool__(self) -> bool:
        """Whether any call was served."""
        return self._before[1] > 0 or any(steps for pictures in self._passes.values() for steps in pictures.values())

    def as_list(self) -> list[dict[str, Any]]:
        """For every pass that is kept and each of its pictures the steps in which its call was served; empty where none was at all."""
        if not self:
            return []
        passes = sorted(self._passes.items())
        return [{"pass": n, "picture": one, "steps": sorted(steps)} for n, pictures in passes for one, steps in sorted(pictures.items())]

    @property
    def before(self) -> tuple[int, int]:
        """How many steps were served in passes that are no longer kept: to the pictures with the fewest in each, and with the most."""
        return self._before


def _least_and_most(pictures: dict[int, set[int]]) -> tuple[int, int]:
    counts = [len(steps) for steps in pictures.values()]
    return min(counts), max(counts)
