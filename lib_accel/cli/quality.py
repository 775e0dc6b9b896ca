"""`quality`: what each method and preset changes in the pictures: distance, tone, detail, what they show, and the time."""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import fields, replace
from itertools import cycle, islice
from typing import Any

import numpy as np
from PIL import Image

from .. import sample
from ..core.sites import find_unet
from ..image_editing.starting import checked_seed
from ..methods.registry import with_settings
from ..settings.model_families import FAMILIES, family_of
from ..settings.presets import PRESETS, preset
from .alternatives import ALTERNATIVES, Fewer, Ngms, parse_alternative
from .drawing import add_pass_arguments, add_sampler_argument, check_pass, check_presets, open_for_drawing
from .errors import CommandError
from .lab import MISSING, PEERS
from .measuring import machine
from .outputs import prepare_folder
from .passes import noun
from .processes import Processes, is_first
from .quality_table import grid, table
from .taking_turns import PLAIN, TimedPicture, draw
from .variants import Variant, parse_variant

METHODS = {method.__name__: method for method in with_settings()}
EVERYWHERE = ", auto off"
COUNT = 24
# Between sets of fewer pictures the Fréchet distance says more of which pictures they are than of how they were drawn, and it takes long.
ENOUGH_FOR_FD = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    none = "without a name: none (default: all)"
    parser.add_argument("--preset", nargs="*", default=list(PRESETS), metavar="NAME", help=f"among {', '.join(PRESETS)}; {none}")
    parser.add_argument(
        "--method", nargs="*", default=list(METHODS), metavar="NAME", help=f"among {', '.join(METHODS)}, with their defaults; {none}"
    )
    parser.add_argument(
        "--variants",
        nargs="*",
        default=[],
        metavar="VARIANT",
        help="more variants, as for bench: tgate:gate=0.3, merging+tgate; and other ways to save time: "
        f"{', '.join([*ALTERNATIVES, *(name for name, peer in PEERS.items() if not peer.limit)])}{MISSING}. "
        f"{_with_settings()}For other tools the table also gives the multiply-adds relative to a plain picture.",
    )
    parser.add_argument(
        "--auto",
        choices=("on", "off", "both"),
        default="on",
        help="on: methods act only where they save time, as in the WebUI; off: everywhere; both: a row for each (default: on)",
    )
    parser.add_argument(
        "--count",
        type=int,
        help=f"how many pictures, of prompts that the sample model was not trained on (default: {COUNT}); with --prompt: of your "
        "own in turn, each with a new seed (default: one of each)",
    )
    parser.add_argument("--prompt", nargs="+", metavar="TEXT", help="your own prompts instead")
    parser.add_argument("--size", type=int, nargs="+", default=[256, 512], help="pixels a side, multiples of 8 (default: 256 512)")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the prompts and of the first picture; each next picture has the next seed (default: %(default)s)",
    )
    add_sampler_argument(parser)
    add_pass_arguments(parser, "accel-quality", "quality.json and the grids")


def _with_settings() -> str:
    """What peers take, in a sentence for the help; nothing where none does."""
    told = [f"{name}:{','.join(field.name for field in fields(peer.settings))}" for name, peer in PEERS.items() if peer.settings]
    return f"Settings of other tools: {'; '.join(told)}. " if told else ""


def run(args: argparse.Namespace) -> int:
    _variants(args)  # What is wrong is told before the model is opened.
    processes = Processes(args.device)
    args.device = processes.device
    pipeline, what = open_for_drawing(args)
    family = family_of(find_unet(pipeline), args.steps)
    variants = _variants(args, family)
    prompts = list(islice(cycle(args.prompt), args.count)) if args.prompt else sample_prompts(args.count, args.seed)
    drawn = f"{args.steps} steps of {args.sampler or 'its own sampler'}, guidance {args.guidance:g}"
    print(f"Model: {what}. {len(prompts)} pictures with each of {len(variants)} variants, {drawn}.", flush=True)
    print(f"Presets for {family}.", flush=True)
    if processes.count > 1:
        print(f"{processes.count} processes, on {', '.join(processes.devices)}.", flush=True)
    if is_first():
        prepare_folder("--out", args.out)
    keys = ("steps", "guidance", "sampler", "seed", "size", "auto")
    result: dict[str, Any] = {
        "model": what,
        "machine": machine(args.device),
        "settings": {key: getattr(args, key) for key in keys} | {"processes": processes.as_dict()},
        "prompts": prompts,
    }
    result |= {"sizes": {}, "pictures": {}}
    for size in dict.fromkeys(args.size):
        drawings, not_run = draw(pipeline, variants, prompts, size, args, processes)
        if not is_first():
            continue
        # The checker knows the sample model's world only, and random weights show nothing.
        judged = args.model is None and sample.has_weights() and all(map(_is_of_its_world, prompts))
        finished = len(drawings[PLAIN])
        rows = compare(drawings, prompts[:finished], getattr(pipeline, "vae", None), judged)
        shown = [*rows, *({"name": name, "not_run": why} for name, why in not_run.items())]
        result["sizes"][str(size)] = shown
        print(f"\n{size}x{size}\n\n{table(shown, noun(find_unet(pipeline)))}", flush=True)
        grid(drawings, rows).save(args.out / f"grid-{size}.png")
        result["pictures"][str(size)] = finished
        # After each size: whoever stops the next one keeps this.
        (args.out / "quality.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if finished < len(prompts):
            print(f"\nStopped: this is of {finished} of {len(prompts)} prompts.", flush=True)
            raise KeyboardInterrupt
    print(f"\nTimes: medians of one picture, variants by turns. Wrote {args.out / 'quality.json'} and the grids beside it.")
    return 0


def sample_prompts(count: int, seed: int) -> list[str]:
    """Prompts for the sample model: every object in them is a combination that its training never saw."""
    from ..sample.captions import held_out_prompts

    return held_out_prompts(count, checked_seed(seed))


def _is_of_its_world(prompt: str) -> bool:
    """Whether the sample model's checker can read what the prompt asks for."""
    from ..sample import captions

    wanted = captions.parse(prompt)
    return bool(wanted.items or wanted.background)


def _variants(args: argparse.Namespace, family: str = FAMILIES[0]) -> list[Variant]:
    """Check the arguments; the variants, plain first, with presets for ``family``. CommandError or SettingError."""
    if args.count is None:
        args.count = len(args.prompt or ()) or COUNT
    check_pass(args, args.size, count=10000)
    if args.prompt and args.count < len(args.prompt):
        raise CommandError(f"--count is {args.count}; with {len(args.prompt)} prompts it must be {len(args.prompt)} or more.")
    check_presets(args.preset)
    auto = False if args.auto == "off" else None
    variants = [Variant("plain")]
    for name in args.method:
        if name not in METHODS:
            raise CommandError(f"--method is {name!r}; it must be one of {', '.join(METHODS)}.")
        variants.append(Variant(name, (METHODS[name](),), auto=auto))
    variants += [Variant(name.lower(), preset(name, family), auto=auto) for name in args.preset]
    for text in args.variants:
        alternative = parse_alternative(text)
        variant = parse_variant(text, family) if alternative is None else Variant(text, (alternative,))
        if variant.name == "plain" or (variant.peer and PEERS[variant.peer].limit) or variant.at is not None:
            raise CommandError(f"--variants holds {variant.name!r}; here it must be presets, methods or other tools, for a whole pass.")
        variants.append(replace(variant, auto=auto))
    if args.auto == "both":
        of_accel = [variant for variant in variants if variant.methods and not isinstance(variant.methods[0], (Fewer, Ngms))]
        variants += [replace(variant, name=variant.name + EVERYWHERE, auto=False) for variant in of_accel]
    return list({variant.name: variant for variant in variants}.values())


def compare(drawings: dict[str, list[TimedPicture]], prompts: list[str], autoencoder: Any, judged: bool) -> list[dict[str, Any]]:
    """One row of numbers per variant, against the plain pictures."""
    from ..images import metrics
    from ..images.metrics import distance

    plain = [drawn.picture for drawn in drawings["plain"]]
    truth = _verdicts(plain, prompts) if judged else []
    enough = len(plain) >= ENOUGH_FOR_FD and hasattr(autoencoder, "encoder") and hasattr(autoencoder.encoder, "mid_block")
    reference = metrics.features(autoencoder, plain) if enough else None
    rows = []
    for name, drawing in drawings.items():
        pictures = [drawn.picture for drawn in drawing]
        apart = [distance(Image.fromarray(p), Image.fromarray(r)) for p, r in zip(pictures, plain)]
        tones = [metrics.tone_shift(p, r) for p, r in zip(pictures, plain)]
        features = None if not enough else reference if name == "plain" else metrics.features(autoencoder, pictures)
        ratios = [base.seconds / drawn.seconds for base, drawn in zip(drawings["plain"], drawing)]
        row: dict[str, Any] = {
            "name": name,
            # An identical picture has no finite PSNR; 100 dB stands for it in the mean.
            **_spread("psnr", [min(a.psnr, 100.0) for a in apart]),
            **_spread("ssim", [a.ssim for a in apart]),
            "luminance_shift": statistics.fmean(tone[0] for tone in tones),
            "saturation_shift": statistics.fmean(tone[1] for tone in tones),
            "detail": statistics.fmean(metrics.detail_ratio(p, r) for p, r in zip(pictures, plain)),
            "fd": None if reference is None else metrics.frechet_distance(features, reference),
            "seconds": statistics.median(drawn.seconds for drawn in drawing),
            "ratio": statistics.median(ratios),
            "account": drawing[-1].account,
            **_calls([drawn for drawn in drawing if drawn.calls is not None]),
            **_work(drawing, drawings["plain"]),
        }
        if judged:
            shown = _verdicts(pictures, prompts)
            change, low, high = metrics.paired_interval(truth, shown)
            row |= {"shown": sum(shown) / len(shown), "shown_change": change, "shown_interval": [low, high]}
        rows.append(row)
    return rows


def _verdicts(pictures: list[np.ndarray], prompts: list[str]) -> list[bool]:
    """Whether each picture shows what its prompt says."""
    from ..sample import captions, checker

    return [checker.judge(picture, captions.parse(prompt)).right for picture, prompt in zip(pictures, prompts)]


def _calls(drawing: list[TimedPicture]) -> dict[str, Any]:
    """Calls of the model that ran in whole: mean, fewest and most; those that ran in part; nothing where none were counted."""
    if not drawing:
        return {}
    whole = [drawn.calls - drawn.shallow for drawn in drawing]
    shallow = statistics.fmean(drawn.shallow for drawn in drawing)
    told = {"calls": statistics.fmean(whole), "calls_range": [min(whole), max(whole)], "calls_shallow": shallow}
    told["calls_in_part"] = statistics.fmean(drawn.in_part for drawn in drawing)
    told["calls_measured"] = statistics.fmean(drawn.measured for drawn in drawing)
    parts = [drawn.rows for drawn in drawing if drawn.rows is not None]
    return told | ({"rows_part": statistics.fmean(parts)} if parts else {})


def _work(drawing: list[TimedPicture], plain: list[TimedPicture]) -> dict[str, float]:
    """What the model multiplied, of what it did in plain pictures; nothing where that was not weighed."""
    weighed = [(drawn.macs, base.macs) for drawn, base in zip(drawing, plain) if drawn.macs is not None and base.macs]
    return {"work": statistics.fmean(macs / base for macs, base in weighed)} if weighed else {}


def _spread(name: str, values: list[float]) -> dict[str, float]:
    """Mean, median and worst of what is the better the higher it is, and which picture (from 0) the worst is."""
    worst = min(values)
    spread = {name: statistics.fmean(values), f"{name}_median": statistics.median(values), f"{name}_worst": worst}
    return spread | {f"{name}_worst_picture": values.index(worst)}
