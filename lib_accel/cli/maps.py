"""`maps`: a picture, and where its cross-attention looked for each word, as pictures."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

import torch

from ..api import accelerated
from ..image_editing.reach import checked_pipeline
from ..image_editing.starting import checked_seed, checked_size
from ..image_editing.text import embeddings, tokens_for
from ..methods import HeatMaps
from ..prompt_to_prompt.maps import combine, heat_picture
from .drawing import add_drawing_arguments, check_pass, open_for_drawing
from .errors import CommandError
from .outputs import prepare_folder

OPTIONS = {"HeatMaps.layers": "--layers", "height": "--size", "seed": "--seed", "width": "--size"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="prompt of the picture")
    parser.add_argument("words", nargs="+", metavar="WORD", help="words or phrases of the prompt, or their numbers from 0")
    parser.add_argument(
        "--layers",
        default="1024",
        help="all, or down, mid, up, 1/4 (and coarser), =1/4 (only that), 1024 (at most so many tokens), joined by + "
        "(default: %(default)s)",
    )
    parser.add_argument("--by", choices=("step", "layer"), help="also draw one map for every step, or for every layer")
    add_drawing_arguments(parser, "accel-maps")


def run(args: argparse.Namespace) -> int:
    from ..images.grid import side_by_side

    check_pass(args, ())
    pipeline, what = open_for_drawing(args)
    checked_pipeline(pipeline)
    tokens = tokens_for(pipeline, args.prompt)
    words = [int(word) if re.fullmatch(r"\d+", word) and not tokens[0].has(word) else word for word in args.words]
    for word in words:
        tokens[0].find(word)
    width, height = checked_size(pipeline, args.size, args.size, None)
    method = HeatMaps(tuple(tokens), args.layers, every_step=args.by is not None)
    text: dict[str, Any] = {"prompt": args.prompt, "negative_prompt": args.negative_prompt}
    if tokens[0].chunks > 1:
        text = embeddings(pipeline, [args.prompt], args.negative_prompt)
    prepare_folder("--out", args.out)
    with accelerated(pipeline, method) as accelerator:
        picture = pipeline(
            **text,
            width=width,
            height=height,
            num_inference_steps=args.steps,
            guidance_scale=args.guidance,
            generator=torch.Generator().manual_seed(checked_seed(args.seed)),
        ).images[0]
    maps = accelerator.heat_maps(words)
    if not all(len(heat) for heat in maps.values()):
        raise CommandError(f"--layers is {args.layers!r}; no layer could be watched: {accelerator.report()}")
    picture.save(args.out / "picture.png")
    cells, entries = [(picture, [args.prompt])], []
    for number, (word, heat) in enumerate(maps.items(), 1):
        name = f"map-{number}.png"
        shown = heat_picture(heat[0], picture)
        shown.save(args.out / name)
        cells.append((shown, [str(word)]))
        entries.append({"file": name, "word": word, "grid": list(heat.shape[1:]), "largest": float(heat[0].max())})
    report = accelerator.report()
    footer = [f"{args.prompt!r}, seed {args.seed}, {args.steps} steps. {what}.", str(report)]
    side_by_side(cells, footer).save(args.out / "maps.png")
    if args.by:
        _by(args, accelerator.heat_maps(words, every_step=True), picture.size).save(args.out / f"maps-by-{args.by}.png")
    result = {"model": what, "prompt": args.prompt, "seed": args.seed, "maps": entries, "account": str(report), "report": report.as_dict()}
    (args.out / "maps.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(report)
    print(f"Model: {what}. Look at {args.out / 'maps.png'}")
    return 0


def _by(args: argparse.Namespace, found: dict, size: tuple[int, int]) -> Any:
    """A picture with a row for every word and a column for every step, or every layer. found: `Accelerator.heat_maps`, every step's."""
    from ..images.grid import grid

    place = 2 if args.by == "step" else 1
    keys = list(dict.fromkeys(key[place] for maps in found.values() for key in maps))
    small = (max(64, size[0] // 4), max(64, size[1] // 4))
    rows = []
    for maps in found.values():
        means = [combine([heat[None] for at, heat in maps.items() if at[place] == key])[0] for key in keys]
        rows.append([heat_picture(mean, size=small) for mean in means])
    columns = [f"{args.by} {key}" if args.by == "step" else str(key) for key in keys]
    return grid(rows, columns, list(map(str, found)), footer=[args.prompt])
