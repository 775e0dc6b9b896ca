"""What a whole picture would cost on a shape that people use: the calls and rows that ran on the sample model, at what a call costs there.

Which calls run depends on the picture and not on the model's size, what a call costs only on its shape: so both can be measured apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from lib_accel.cli.alternatives import parse_alternative
from lib_accel.cli.variants import parse_variant
from lib_accel.core.method import STAGES, TOKENS, Method
from lib_accel.cost.estimate import SHAPES, AtWork, decoding_work, step_work
from lib_accel.methods.deep_cache import SHALLOW

# bench's names of the shapes that `SHAPES` has.
FAMILY_OF = {"sd15": "sd1", "sd21": "sd2", "sdxl": "sdxl"}


class Costs(Protocol):
    """What a U-Net call costs on a shape at a size, in any unit.

    name: for the head of a table. family: whose presets apply. size: pixels a side.
    """

    name: str
    family: str
    size: int

    def call(self, at_work: Sequence[AtWork], rows: int) -> float | None:
        """A call on ``rows`` rows, 1 or 2, while ``at_work`` act; None where it is not known."""

    def decoding(self) -> float: ...


class Counted:
    """Costs in multiply-adds. shape: one of `SHAPES`; size: pixels a side."""

    def __init__(self, shape: str, size: int) -> None:
        self.name, self.family, self.size = f"{shape} {size}", shape, size
        self._unet, self._latent = SHAPES[shape], (size // 8, size // 8)

    def call(self, at_work: Sequence[AtWork], rows: int) -> float:
        return step_work(self._unet, *self._latent, at_work, rows=rows)

    def decoding(self) -> float:
        return decoding_work(*self._latent)


class Timed:
    """Costs in seconds, the least that `bench` measured. result: what its ``--json`` wrote, of single calls on 2 rows and on 1.

    Decoding is not timed: it takes its part by multiply-adds.
    """

    def __init__(self, result: Mapping[str, Any], size: int) -> None:
        arch = result["settings"]["arch"]
        self.name, self.family, self.size = f"{arch} {size}, timed", FAMILY_OF[arch], size
        counted = Counted(self.family, size)
        self._seconds: dict[tuple[frozenset[Method], int], float] = {}
        for row in result["rows"]:
            if row["size"] == size and not row.get("not_run"):
                self._seconds[frozenset(parse_variant(row["variant"], self.family).methods), row["batch"]] = row["min"]
        self._decoding = self._seconds[frozenset(), 2] * counted.decoding() / counted.call((), 2)

    def call(self, at_work: Sequence[AtWork], rows: int) -> float | None:
        return self._seconds.get((frozenset(replace(method, window=(0.0, 1.0)) for method, _ in at_work), rows))

    def decoding(self) -> float:
        return self._decoding


def timed_costs(path: Path) -> list[Timed]:
    """`Timed` for each size in a result of `bench`."""
    result = json.loads(path.read_text(encoding="utf-8"))
    return [Timed(result, size) for size in dict.fromkeys(row["size"] for row in result["rows"])]


def methods_of(row: Mapping[str, Any], steps: int, family: str) -> Sequence[Method] | None:
    """The methods behind the name of ``row``, none where fewer steps, the host or another tool leave out whole calls and rows; None where a
    tool works inside of calls."""
    if parse_alternative(row["name"]) is not None:
        return ()
    variant = parse_variant(row["name"], family)
    if not variant.peer:
        return variant.methods
    whole = row.get("rows_part", row["calls"] / steps)
    return () if abs(row.get("work", whole) - whole) < 0.01 else None


def speed(row: Mapping[str, Any], steps: int, costs: Costs) -> float | None:
    """How many times as fast a whole picture of ``steps`` steps is with the calls of ``row`` of `quality`; None: a cost is unknown."""
    plain, decoding = costs.call((), 2), costs.decoding()
    methods = methods_of(row, steps, costs.family)
    if methods is None:
        return None
    acting = [(method, method.schedule(steps).kinds) for method in methods if method.declaration.acts_on == TOKENS]
    cut = [(method, (SHALLOW,)) for method in methods if method.declaration.acts_on == STAGES]
    # Of the rows of a plain run, those of the calls that ran: so many calls have one row and not two.
    # Of fewer steps they are parts of their own run.
    ran = row["calls"] + row["calls_shallow"]
    two = min(max(row["rows_part"] * 2 * steps / ran - 1, 0.0), 1.0) if "rows_part" in row else 1.0
    total = decoding
    for step in range(steps):
        tokens = [(method, kinds[step]) for method, kinds in acting if kinds[step]]
        for calls, at_work in ((row["calls"], tokens), (row["calls_shallow"], [*tokens, *cut])):
            if not calls:
                continue
            both = [costs.call(at_work, rows) if part else 0.0 for rows, part in ((2, two), (1, 1 - two))]
            if None in both:
                return None
            total += calls / steps * (two * both[0] + (1 - two) * both[1])
    return (steps * plain + decoding) / total
