"""`edit`: a picture and its edited versions by Prompt-to-Prompt, over windows of cross- and self-attention, in a labelled grid."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..image_editing.editing import EditedPictures, draw_part
from ..prompt_to_prompt import Edit
from .drawing import open_for_drawing
from .edit_options import OPTIONS, EditCell, add_arguments, cells_of, edits_of, options_of
from .measuring import machine
from .outputs import prepare_folder
from .processes import Processes, is_first

__all__ = ["OPTIONS", "add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    cells = cells_of(args)
    edits = edits_of(args, cells)
    options, processes = options_of(args), Processes(args.device)
    args.device = processes.device
    pipeline, what = open_for_drawing(args)
    if is_first():
        prepare_folder("--out", args.out)
    made = _draw(pipeline, args, edits, options, processes)
    if not is_first():
        return 0
    accounts = list(dict.fromkeys(_timeless(str(report)) for report in made.reports))
    result = _write(args, made, cells, what, accounts, processes)
    for entry in result["pictures"]:
        print(f"{entry['file']}: {entry['kind']}, {entry['label']}")
    for report in made.reports:
        print(report)
    print(f"Model: {what}. Look at {args.out / 'edit.png'}")
    return 0


def _draw(pipeline: Any, args: argparse.Namespace, edits: list[Edit], options: dict[str, Any], processes: Processes) -> EditedPictures:
    """What all processes made, in the first of them; each draws its part of the batches that one process would draw."""
    made = draw_part(pipeline, args.source, edits, args.seed, processes.part, **options)
    made.masks = [mask if mask is None else mask.cpu() for mask in made.masks]
    parts = processes.gathered([(made.pictures, made.masks, made.reports)])
    if parts:
        pictures, masks, reports = zip(*parts)
        made.pictures, made.masks = ([_first(entries) for entries in zip(*of_all)] for of_all in (pictures, masks))
        made.reports = [report for of_one in reports for report in of_one]
    return made


def _first(entries: tuple[Any, ...]) -> Any:
    """What the process that drew it has."""
    return next((entry for entry in entries if entry is not None), None)


def _label(value: Any) -> str:
    return f"{value[0]:g}-{value[1]:g}" if isinstance(value, tuple) else f"{value:g}"


def _timeless(account: str) -> str:
    """An account without its seconds, which differ from batch to batch."""
    return re.sub(r" in [\d.]+ s", "", account)


def _write(
    args: argparse.Namespace, made: EditedPictures, cells: list[EditCell], what: str, accounts: list[str], processes: Processes
) -> dict[str, Any]:
    """The pictures, the grid and edit.json; returns what is in the last."""
    from ..images.grid import PAPER, grid

    made.pictures[0].save(args.out / "source.png")
    entries = []
    for number, (cell, picture, kind, mask) in enumerate(zip(cells, made.pictures[1:], made.kinds[1:], made.masks[1:]), 1):
        name = f"edit-{number}.png"
        picture.save(args.out / name)
        label = f"cross {_label(cell.cross)}, self {_label(cell.self_attention)}: {args.source if cell.prompt is None else cell.prompt}"
        entry = {"file": name, "kind": kind, "label": label} | asdict(cell)
        entries.append(entry | {"mask": None if mask is None else float(mask.mean())})
    across = [_label(window) for window in dict.fromkeys(cell.cross for cell in cells)]
    rows, labels = [], []
    for first in range(0, len(cells), len(across)):
        cell = cells[first]
        said = " ".join(args.weight) if cell.prompt is None else cell.prompt
        labels.append(f"self {_label(cell.self_attention)}: {said}")
        rows.append([None if first else made.pictures[0], *made.pictures[1 + first : 1 + first + len(across)]])
    m = machine(args.device)
    footer = [
        f"{args.source!r}, seed {args.seed}, {args.steps} steps. {what}.",
        *accounts,
        f"{m['device']}, torch {m['torch']}, {m['date']}.",
    ]
    columns = ["source", *(f"cross {text}" for text in across)]
    grid(rows, columns, labels, footer=footer, missing=PAPER).save(args.out / "edit.png")
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    settings["processes"] = processes.as_dict()
    result = {
        "model": what,
        "settings": settings,
        "machine": m,
        "pictures": entries,
        "accounts": [str(report) for report in made.reports],
        "reports": [report.as_dict() for report in made.reports],
    }
    (args.out / "edit.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result
