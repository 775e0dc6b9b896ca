"""What is drawn: the axes' values, the cells that they make, and the batches that these are drawn in. Pure.

A cell is one edited picture. Cells of one seed share their source; a batch is a source and as many cells as fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from ...core.fields import SettingError
from . import controls, values
from .controls import CROSS, EDIT, NONE, SEED, SELF, THRESHOLD, WEIGHT, FormValues
from .lines import Line, weights_of

MOST_CELLS = 1000
OFF = "without control"


@dataclass(frozen=True)
class Cell:
    """One edited picture. line: place in the list of edits. seed: its number, from 0. cross, self_: windows as typed. weights: over the
    line's own; a number is for all of them. control: False for the same prompt and seed without any control.
    """

    line: int = 0
    seed: int = 0
    cross: str = "0.8"
    self_: str = "0.4"
    threshold: float = 0.3
    weights: tuple[tuple[str, float], ...] | float | None = None
    control: bool = True

    def weights_on(self, own: Mapping[str, float]) -> dict[str, float]:
        """The factors of words, ``own`` being the line's."""
        if isinstance(self.weights, float):
            return dict.fromkeys(own, self.weights)
        return {**own, **dict(self.weights or ())}


@dataclass(frozen=True)
class Value:
    """One place on an axis. label: for the legend. change: fields of `Cell`."""

    label: str
    change: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """One grid. title: what tells it from the others, may be empty. cells: rows of cells."""

    title: str
    columns: tuple[Value, ...]
    rows: tuple[Value, ...]
    cells: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Plan:
    """pages: the grids. seeds: the seeds of the sources, by number; None: as the host counts them on from its own."""

    pages: tuple[Page, ...]
    seeds: tuple[int, ...] | None
    seed_count: int

    def cells(self) -> list[Cell]:
        """Every cell once, in the order of drawing: seed by seed."""
        cells = dict.fromkeys(cell for page in self.pages for row in page.cells for cell in row)
        return sorted(cells, key=lambda cell: (cell.seed, cell.threshold))

    def batches(self, at_once: int) -> list[list[Cell]]:
        """The cells that are drawn together, each time with their source: ``at_once`` pictures at most."""
        found: list[list[Cell]] = []
        for cell in self.cells():
            last = found[-1] if found else None
            if last is None or len(last) > at_once - 2 or (last[0].seed, last[0].threshold) != (cell.seed, cell.threshold):
                found.append(last := [])
            last.append(cell)
        return found


def plan(settings: FormValues, lines: Sequence[Line], seed_count: int) -> Plan:
    """seed_count: how many seeds the host's batch count and size ask for. SettingError for what no axis can be."""
    x, y = settings["x"], settings["y"]
    if x == y != NONE:
        raise SettingError(f"{controls.TITLE}: X axis and Y axis are both {x}; they must differ.")
    base = Cell(cross=settings["cross"], self_=settings["self"], threshold=settings["threshold"])
    seeds = next((_seeds(settings, name) for name in "xy" if settings[name] == SEED), None)
    count = len(seeds) if seeds is not None else seed_count
    columns, rows = (_axis(settings, name, lines, seeds, count) for name in "xy")
    if settings["off"]:
        columns, rows = _with_off(x, y, columns, rows)
    places = (1 if EDIT in (x, y) else len(lines)) * (1 if SEED in (x, y) else count)
    if places * len(columns) * len(rows) > MOST_CELLS:
        raise SettingError(f"{controls.TITLE}: this makes more than {MOST_CELLS} pictures; take fewer values.")
    pages = []
    for line, seed in product(_or_all(EDIT, (x, y), len(lines)), _or_all(SEED, (x, y), count)):
        titles = [lines[line].text] * (EDIT not in (x, y)) + [f"seed {seed + 1} of {count}"] * (SEED not in (x, y) and count > 1)
        here = replace(base, line=line, seed=seed)
        cells = tuple(tuple(_changed(here, row, column) for column in columns) for row in rows)
        pages.append(Page(", ".join(titles), columns, rows, cells))
    return Plan(tuple(pages), tuple(seeds) if seeds is not None else None, count)


def _changed(base: Cell, *by: Value) -> Cell:
    """What is drawn without control does not depend on any."""
    cell = base
    for value in by:
        cell = replace(cell, **value.change)
    return cell if cell.control else Cell(cell.line, cell.seed, cross="", self_="", threshold=base.threshold, weights=None, control=False)


def _or_all(axis: str, axes: tuple[str, str], count: int) -> Iterator[int]:
    """What is on no axis has grids of its own."""
    return iter(range(1 if axis in axes else count))


def _axis(settings: FormValues, name: str, lines: Sequence[Line], seeds: list[int] | None, count: int) -> tuple[Value, ...]:
    kind, text = settings[name], settings[f"{name}_values"]
    where = f"{controls.TITLE}: {controls.CONTROLS[f'{name}_values'].label}"
    if kind == NONE:
        return (Value(""),)
    if kind == EDIT:
        return tuple(Value(lines[place].text, {"line": place}) for place in _chosen(where, text, len(lines)))
    if kind == SEED:
        if seeds is not None:
            return tuple(Value(f"seed {seed}", {"seed": number}) for number, seed in enumerate(seeds))
        return tuple(Value(f"seed {number + 1}", {"seed": number}) for number in range(count))
    parts = values.split(text)
    if not parts:
        raise SettingError(f"{where} is empty; {kind} needs values with commas between them.")
    return tuple(_value(where, kind, part, lines, settings) for part in parts)


def _value(where: str, kind: str, part: str, lines: Sequence[Line], settings: FormValues) -> Value:
    label = f"{kind} {part}"
    if kind == CROSS:
        values.windows(where, part)
        return Value(label, {"cross": part})
    if kind == SELF:
        values.window(where, part)
        return Value(label, {"self_": part})
    if kind == THRESHOLD:
        if not settings["blend"]:
            raise SettingError(f"{controls.TITLE}: an axis is {THRESHOLD}; it needs Blend words.")
        return Value(label, {"threshold": values.number(where, part, 0, 1)})
    if "*" in part:
        return Value(part, {"weights": tuple(weights_of(where, part).items())})
    weight = values.number(where, part)
    bare = next((line for line in lines if not line.weights), None)
    if bare is not None:
        raise SettingError(f"{where} has {part!r}, and line {bare.number} weighs no word; write the word, as in smiling*{part}.")
    words = dict.fromkeys(word for line in lines for word in line.weights)
    return Value(f"{', '.join(words)} * {part}" if len(words) == 1 else f"{WEIGHT} {part}", {"weights": weight})


def _chosen(where: str, text: str, count: int) -> list[int]:
    """Places in the list of edits: those with these numbers, or all."""
    parts = values.split(text)
    for part in parts:
        if not values.whole_number(part, count):
            raise SettingError(f"{where} has {part!r}; it must be numbers of edits from 1 to {count}, or empty for all edits.")
    return [int(part) - 1 for part in parts] or list(range(count))


def _seeds(settings: FormValues, name: str) -> list[int] | None:
    text = settings[f"{name}_values"]
    return values.seeds(f"{controls.TITLE}: {controls.CONTROLS[f'{name}_values'].label}", text) if text else None


def _with_off(x: str, y: str, columns: tuple, rows: tuple) -> tuple[tuple, tuple]:
    """The pictures without control get a column where the columns are about control, else a row, else one behind each column."""
    off = Value(OFF, {"control": False})
    on_control = (CROSS, SELF, WEIGHT, THRESHOLD)
    if x in on_control:
        return (*columns, off), rows
    if y in on_control:
        return columns, (*rows, off)
    if y == NONE:
        return columns, (Value("edited"), off)
    if x == NONE:
        return (Value("edited"), off), rows
    return tuple(each for column in columns for each in (column, Value(f"{column.label}, {OFF}", {**column.change, **off.change}))), rows
