"""`demo`: the same picture plain and accelerated, side by side, with honest times."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .. import sample
from ..api import accelerated
from ..core.sites import find_unet
from ..image_editing.starting import checked_seed
from ..settings.model_families import family_of
from ..settings.presets import PRESETS, preset
from .drawing import add_drawing_arguments, check_pass, check_presets, open_for_drawing
from .measuring import machine, timed
from .outputs import prepare_folder
from .passes import check_needs_no_picture
from .progress import progress

PLAIN = "plain"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", default=sample.DEFAULT_PROMPT, help="default: %(default)s")
    parser.add_argument("--preset", nargs="+", default=list(PRESETS), metavar="NAME", help=f"among {', '.join(PRESETS)} (default: all)")
    parser.add_argument(
        "--repeats", type=int, default=2, help="how often each picture is drawn; the shortest time counts (default: %(default)s)"
    )
    add_drawing_arguments(parser, "accel-demo", size="512; other models: their own")


def run(args: argparse.Namespace) -> int:
    check_presets(args.preset)
    check_pass(args, () if args.size is None else (args.size,), repeats=100)
    pipeline, what = open_for_drawing(args)
    check_needs_no_picture(pipeline)
    prepare_folder("--out", args.out)
    family = family_of(find_unet(pipeline), args.steps)
    methods = {PLAIN: ()} | {name.lower(): preset(name, family) for name in args.preset}
    print(f"Model: {what}. Presets for {family}.")
    drawings = draw(pipeline, methods, args, args.size or (512 if args.model is None else None))
    result = {"model": what, "prompt": args.prompt, "seed": args.seed, "steps": args.steps, "machine": machine(args.device)}
    result["pictures"] = _write(drawings, args.out)
    _write_grid(drawings, result, args)
    for entry in result["pictures"]:
        print(f"{entry['name']:>10}: {entry['seconds']:.2f} s, {entry['ratio']:.2f}x." + _told(entry))
    print(f"Look at {args.out / 'comparison.png'}")
    return 0


def _told(entry: dict[str, Any]) -> str:
    """How a picture differs from the plain one, and what was done; nothing of the plain one."""
    return "" if entry["name"] == PLAIN else f" {entry['to_plain']}. {entry['account']}"


def draw(pipeline: Any, methods: dict[str, tuple], args: argparse.Namespace, size: int | None) -> dict[str, dict[str, Any]]:
    """Draw the same seed with each set of methods, in turn, ``repeats`` times after a short uncounted one."""
    settings: dict[str, Any] = {
        "prompt": args.prompt,
        "negative_prompt": args.negative_prompt,
        "guidance_scale": args.guidance,
    }
    if size is not None:
        settings |= {"width": size, "height": size}
    drawings: dict[str, dict[str, Any]] = {name: {"times": []} for name in methods}
    total = len(methods) * (args.repeats * args.steps + min(2, args.steps))
    with progress(pipeline, total, "demo") as bar:
        for turn in range(args.repeats + 1):
            # Whoever goes first may find the processor cool or the caches cold: the order alternates.
            order = list(methods) if turn % 2 else list(reversed(methods))
            for name in order:
                steps = args.steps if turn else min(2, args.steps)
                label = f"{name}, {turn} of {args.repeats}" if turn else f"{name}, warming up"
                bar.says(f"{label:>22}")
                generator = torch.Generator().manual_seed(checked_seed(args.seed))
                with accelerated(pipeline, *methods[name]) as accelerator:
                    images: list = []
                    run = partial(pipeline, **settings, num_inference_steps=steps, generator=generator)
                    seconds = timed(lambda run=run, into=images: into.extend(run().images))
                if turn:
                    drawings[name]["times"].append(seconds)
                    drawings[name] |= {"image": images[0], "report": accelerator.report()}
    return drawings


def _write(drawings: dict[str, dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    """Save the pictures; returns what is known of each, ready for JSON."""
    from ..images.metrics import distance

    plain = drawings[PLAIN]
    entries = []
    for name, drawing in drawings.items():
        drawing["image"].save(out / f"{name}.png")
        apart = distance(drawing["image"], plain["image"])
        entries.append(
            {
                "name": name,
                "file": f"{name}.png",
                "seconds": min(drawing["times"]),
                "all_seconds": drawing["times"],
                "ratio": min(plain["times"]) / min(drawing["times"]),
                "psnr": None if apart.psnr == float("inf") else apart.psnr,
                "ssim": apart.ssim,
                "to_plain": str(apart),
                "account": str(drawing["report"]),
                "report": drawing["report"].as_dict(),
            }
        )
    return entries


def _write_grid(drawings: dict[str, dict[str, Any]], result: dict[str, Any], args: argparse.Namespace) -> None:
    from ..images.grid import side_by_side

    cells = []
    for entry in result["pictures"]:
        lines = [f"{entry['name']}: {entry['seconds']:.2f} s, {entry['ratio']:.2f}x", entry["to_plain"], entry["account"]]
        cells.append((drawings[entry["name"]]["image"], lines if entry["name"] != PLAIN else lines[:1]))
    m, of = result["machine"], "of one run" if args.repeats == 1 else f"the least of {args.repeats}"
    footer = [
        f"{result['prompt']!r}, seed {result['seed']}, {result['steps']} steps. {result['model']}.",
        f"{m['device']}, {m['threads']} threads, torch {m['torch']}, {m['date']}. Times: {of}, against PyTorch's own attention.",
    ]
    side_by_side(cells, footer).save(args.out / "comparison.png")
    (args.out / "demo.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
