"""`edit`: a picture and its edited versions by Prompt-to-Prompt, over windows of cross- and self-attention, in a labelled grid."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..image_editing.editing import EditedPictures, draw_part
from ..image_editing.inversion import INVERSIONS
from ..image_editing.options import VARIANTS
from ..prompt_to_prompt import KINDS, Edit, LocalBlend
from .drawing import add_drawing_arguments, open_for_drawing
from .errors import CommandError
from .measuring import machine
from .outputs import prepare_folder
from .processes import Processes, is_first


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="the prompt of the picture that is edited")
    parser.add_argument(
        "edits", nargs="*", metavar="EDIT", help="edited prompts; without any, the source prompt with the weights of --weight"
    )
    parser.add_argument("--kind", choices=KINDS, default="auto", help="auto: replace if both prompts have as many words, else refine")
    parser.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="WORD:FACTOR",
        help="weight of a word in the edited prompts, -1000 to 1000; may be repeated",
    )
    parser.add_argument("--cross", default="0.8", metavar="VALUES", help="windows of cross-attention: 0,0.4,0.2-0.8 (a column each)")
    parser.add_argument("--self", default="0.4", metavar="VALUES", dest="self_attention", help="windows of self-attention (a row each)")
    parser.add_argument(
        "--word-window", action="append", default=[], metavar="WORD:WINDOW", help="a window for one word: lion:0.4; may be repeated"
    )
    parser.add_argument("--cross-layers", default="all", help="all, down, mid, up, 1/4 and coarser, =1/4, 256 (tokens), joined by +")
    parser.add_argument("--self-layers", default="1/4", help="as --cross-layers, of self-attention (default: %(default)s)")
    parser.add_argument(
        "--self-source",
        choices=("map", "value", "keys_values", "none"),
        default="map",
        help="what self-attention takes from the source: the map, the values, keys and values, nothing (default: %(default)s)",
    )
    parser.add_argument("--blend", metavar="WORDS:WORDS", help="words of the source and of the edits that may change: circle:square, a+b:c")
    parser.add_argument("--subtract", default="", metavar="WORDS", help="with --blend: words whose places must not change, joined by +")
    parser.add_argument("--threshold", type=float, help="with --blend: higher blends less, 0 to 1 (default 0.3)")
    parser.add_argument("--blend-start", type=float, help="with --blend: fraction of the pass from which it acts (default 0.2)")
    parser.add_argument("--composite", action="store_true", help="with --blend: paste the source's pixels outside the mask")
    parser.add_argument(
        "--variant",
        choices=VARIANTS,
        default="accel",
        help="how words of the two prompts are paired: ours, or as one of the released codes does",
    )
    parser.add_argument(
        "--source-latent",
        choices=("own", "shared"),
        default="own",
        help="shared: attention of the source prompt is taken on the edited picture",
    )
    parser.add_argument("--image", type=Path, help="a real picture to edit; the source prompt describes it")
    parser.add_argument("--strength", type=float, help="with --image: how much of the pass is run, 0 to 1")
    parser.add_argument("--inversion", choices=INVERSIONS, help="with --image: find the noise that the picture would be drawn from")
    parser.add_argument("--at-once", type=int, default=4, help="pictures in one batch, the source included")
    add_drawing_arguments(parser, "accel-edit")


@dataclass(frozen=True)
class EditCell:
    """One edited picture of the grid."""

    prompt: str | None
    cross: Any
    self_attention: Any


def run(args: argparse.Namespace) -> int:
    cells = _cells(args)
    weights = dict(_pair("--weight", text, float) for text in args.weight)
    if not args.edits and not weights:
        raise CommandError("there is no edit; give edited prompts, or --weight WORD:FACTOR.")
    windows = dict(_pair("--word-window", text, _window) for text in args.word_window)
    edits = [
        Edit(cell.prompt, args.kind, weights, {"default_": cell.cross} | windows if windows else cell.cross, cell.self_attention)
        for cell in cells
    ]
    options, processes = _options(args), Processes(args.device)
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


def _cells(args: argparse.Namespace) -> list[EditCell]:
    prompts = args.edits or [None]
    across, down = _windows("--cross", args.cross), _windows("--self", args.self_attention)
    return [EditCell(prompt, cross, own) for prompt in prompts for own in down for cross in across]


def _options(args: argparse.Namespace) -> dict[str, Any]:
    image = None
    if args.image is not None:
        from PIL import Image

        try:
            image = Image.open(args.image).convert("RGBA")
        except OSError as error:
            raise CommandError(f"--image is {str(args.image)!r}; it could not be opened: {error}.") from error
        # What is transparent shows white.
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return {
        "cross_layers": args.cross_layers,
        "self_layers": args.self_layers,
        "self_source": None if args.self_source == "none" else args.self_source,
        "local_blend": _blend(args),
        "composite": args.composite,
        "variant": args.variant,
        "source_latent": args.source_latent,
        "negative_prompt": args.negative_prompt,
        "steps": args.steps,
        "guidance": args.guidance,
        "width": args.size,
        "height": args.size,
        "image": image,
        "strength": args.strength,
        "inversion": args.inversion,
        "pictures_at_once": args.at_once,
    }


def _blend(args: argparse.Namespace) -> LocalBlend | None:
    if args.blend is None:
        for option, given in (("--subtract", args.subtract), ("--threshold", args.threshold), ("--blend-start", args.blend_start)):
            if given not in ("", None):
                raise CommandError(f"{option} is {given}; it needs --blend, the words that may change.")
        return None
    source, _, edited = args.blend.partition(":")
    words = [tuple(filter(None, text.split("+"))) for text in (source, edited, args.subtract)]
    given = {"threshold": args.threshold, "start": args.blend_start}
    return LocalBlend(*words, **{name: value for name, value in given.items() if value is not None})


def _windows(name: str, text: str) -> list[Any]:
    try:
        return [_window(part) for part in text.split(",")]
    except ValueError:
        raise CommandError(f"{name} is {text!r}; it must be fractions or ranges such as 0,0.4,0.2-0.8.") from None


def _window(text: str) -> Any:
    """A fraction, or ``0.2-0.8``."""
    between = re.fullmatch(r"\s*([\d.]+)-([\d.]+)\s*", text)
    return (float(between[1]), float(between[2])) if between else float(text)


def _pair(name: str, text: str, value: Any) -> tuple[str, Any]:
    word, colon, number = text.rpartition(":")
    try:
        if colon and word:
            return word, value(number)
    except ValueError:
        pass
    raise CommandError(f"{name} is {text!r}; it must be a word, a colon and a number.")


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
    across = list(dict.fromkeys(_label(cell.cross) for cell in cells))
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
