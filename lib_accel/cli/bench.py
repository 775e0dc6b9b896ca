"""`bench`: U-Net calls and whole generations under several variants, in turn, against PyTorch's scaled-dot-product attention."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.sites import find_unet
from ..settings.model_families import family_of
from ..settings.presets import PRESETS
from .architectures import ARCHITECTURES, build_unet
from .composing import Composer, macs_of_pass
from .errors import CommandError
from .lab import MISSING, PEERS
from .measuring import machine, measure
from .models import add_device_argument, open_pipeline, refuse_config
from .outputs import prepare_file
from .passes import noun
from .random_pipeline import pipeline_around
from .variants import METHODS, Variant, parse_variant
from .workloads import as_hosts_run_it, work_for

WARM_UP_SIZE = 256
# What goes with --whole alone, with its defaults.
OF_WHOLE = {"steps": 20, "guidance": 5.0}
BACKEND = "diffusers"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", choices=ARCHITECTURES, help="shape of a U-Net with random weights (default: sd15)")
    parser.add_argument("--backend", choices=("ldm", "diffusers"), help=f"with --arch: whose U-Net class (default: {BACKEND})")
    parser.add_argument("--model", type=Path, help="instead of --arch: a diffusers folder or a .safetensors checkpoint")
    parser.add_argument("--config", type=Path, help="with a checkpoint: a diffusers folder of the same kind of model")
    parser.add_argument("--pipeline", action="store_true", help="with --arch and --whole: run in a diffusers pipeline, as other tools need")
    parser.add_argument("--size", type=int, nargs="+", default=[512], help="pixels a side, multiples of 8 (ldm: of 64; default: 512)")
    parser.add_argument("--batch", type=int, nargs="+", default=[2], help="rows of a U-Net call (default: 2, one guided picture)")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, help="default: float16 on a GPU, else float32")
    parser.add_argument(
        "--whole", action="store_true", help="time whole generations (all U-Net calls and the sampler) instead of single U-Net calls"
    )
    parser.add_argument(
        "--compose",
        action="store_true",
        help="with --whole: time a step of every kind and add them up, for sizes that take too long; not where steps are forecast",
    )
    parser.add_argument("--steps", type=int, help=f"with --whole: steps of a generation (default: {OF_WHOLE['steps']})")
    parser.add_argument(
        "--guidance", type=float, help=f"with --whole: CFG scale; 1 or less: no guidance (default: {OF_WHOLE['guidance']:g})"
    )
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each variant (default: %(default)s)")
    parser.add_argument(
        "--variants",
        nargs="+",
        default=["plain", "agent", "merging"],
        metavar="VARIANT",
        help=f"plain, presets ({', '.join(PRESETS)}), methods ({', '.join(METHODS)}) such as merging:ratio=0.5, "
        f"joined by +; @0.5: a single call in the middle of the pass; other tools and limits ({', '.join(PEERS)}){MISSING} "
        "(default: plain agent merging)",
    )
    parser.add_argument(
        "--auto",
        action="store_true",
        help="methods act only where this machine's table says that they save time",
    )
    parser.add_argument("--macs", action="store_true", help="also count multiply-adds, with --arch")
    parser.add_argument("--memory", action="store_true", help="also measure the peak memory, in one more run of each variant")
    add_device_argument(parser)
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--json", type=Path, help="also write the results there")
    parser.add_argument("--markdown", type=Path, help="also write the table there")


def run(args: argparse.Namespace) -> int:
    _check(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    dtypes = args.dtype or ["float16" if args.device.startswith("cuda") else "float32"]
    model, what = _open(args, DTYPES[dtypes[0]])
    variants = _variants(args, find_unet(model))
    rows: list[dict[str, Any]] = []
    finished = False
    try:
        for dtype in dict.fromkeys(dtypes):
            _cast(model, DTYPES[dtype])
            with as_hosts_run_it(find_unet(model), args.device, DTYPES[dtype]):
                for size, batch in product(dict.fromkeys(args.size), dict.fromkeys(args.batch)):
                    measured = _measure(args, model, variants, size, batch, DTYPES[dtype])
                    rows += [{"size": size, "batch": batch, "dtype": dtype} | row for row in measured]
        finished = True
    finally:
        # What was measured stays, whatever stops the rest (a size that takes too much memory, somebody).
        if rows:
            _tell(args, model, what, rows, finished)
    return 0


def _tell(args: argparse.Namespace, model: Any, what: str, rows: list[dict[str, Any]], finished: bool) -> None:
    """Print the table, and write what is to be written."""
    given = {key: value for key, value in vars(args).items() if key != "json"}
    settings = {key: [str(v) for v in value] if isinstance(value, list) else str(value) for key, value in given.items()}
    result = {"what": what, "called": noun(find_unet(model)), "settings": settings, "machine": machine(args.device), "rows": rows}
    result |= {} if finished else {"stopped": True}
    print(table(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(table(result) + "\n", encoding="utf-8")


def _check(args: argparse.Namespace) -> None:
    if args.model is not None and args.arch is not None:
        raise CommandError("--arch and --model name two models; give one of them.")
    if args.model is None:
        refuse_config(args.config)
    elif args.backend is not None:
        raise CommandError(f"--backend is {args.backend}; it goes with --arch.")
    args.backend = args.backend or BACKEND
    # LDM's own U-Net joins grids of equal size only, and has three halvings.
    multiple = 64 if args.backend == "ldm" and args.model is None else 8
    for size in args.size:
        if size < 64 or size % multiple:
            raise CommandError(f"--size is {size}; it must be a multiple of {multiple} from 64 on.")
    if args.compose and not (args.whole and args.model is None):
        raise CommandError("--compose is given; it goes with --whole and --arch.")
    if args.pipeline and (args.model is not None or not args.whole or args.compose):
        raise CommandError("--pipeline is given; it goes with --arch and --whole, and not with --compose.")
    for name, default in OF_WHOLE.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        elif not args.whole:
            raise CommandError(f"--{name} is {getattr(args, name)}; it goes with --whole.")
    if args.macs and args.model is not None:
        raise CommandError("--macs is given; it goes with --arch (for a model on disk see `info`).")
    numbers = [("batch", batch, 1024) for batch in args.batch] + [("steps", args.steps, 1000), ("runs", args.runs, 1000)]
    if args.threads is not None:
        numbers.append(("threads", args.threads, 1024))
    for name, value, most in numbers:
        if not 1 <= value <= most:
            raise CommandError(f"--{name} is {value}; it must be a whole number from 1 to {most}.")
    if not 0 <= args.guidance <= 100:
        raise CommandError(f"--guidance is {args.guidance}; it must be a number from 0 to 100.")
    if None not in (args.json, args.markdown) and args.json.resolve() == args.markdown.resolve():
        raise CommandError(f"--markdown is {str(args.markdown)!r}; it must be another file than --json.")
    for option in ("json", "markdown"):
        prepare_file(f"--{option}", getattr(args, option))
    for text in args.variants:
        parse_variant(text)  # What is wrong is told before a model is opened.
    odd = next((batch for batch in args.batch if batch % 2), None)
    if args.whole and args.guidance > 1 and odd:
        raise CommandError(f"--batch is {odd}; with guidance a picture takes two rows, so it must be even.")


def _open(args: argparse.Namespace, dtype: torch.dtype) -> tuple[Any, str]:
    """The pipeline of --model or the U-Net of --arch, and a line about it."""
    if args.model is not None:
        return open_pipeline(args.model, args.config, args.device, dtype)
    name = args.arch or "sd15"
    unet, what = build_unet(name, args.backend).to(args.device), f"{name} ({args.backend}), random weights"
    return (pipeline_around(unet), f"{what}, in a pipeline") if args.pipeline else (unet, what)


def _cast(model: Any, dtype: torch.dtype) -> None:
    """A U-Net, or every network of a pipeline, in ``dtype``. By way of the base class: diffusers' own `to` warns for nothing."""
    for network in [model] if isinstance(model, nn.Module) else model.components.values():
        if isinstance(network, nn.Module):
            nn.Module.to(network, dtype)


def _variants(args: argparse.Namespace, unet: nn.Module) -> list[Variant]:
    family = family_of(unet, args.steps if args.whole else None)
    variants = [replace(parse_variant(text, family), auto=args.auto) for text in dict.fromkeys(args.variants)]
    for variant in variants:
        if args.whole and variant.at is not None:
            raise CommandError(f"variant is {variant.name!r}; @ places a single call and does not go with --whole.")
    return variants


def _measure(args: argparse.Namespace, model: Any, variants: list[Variant], size: int, batch: int, dtype: torch.dtype) -> list[dict]:
    steps = args.steps if args.whole else None
    work = work_for(model, size, batch, dtype, args.device, steps, args.guidance)
    # A GPU chooses its kernels by size; a processor only needs its code and memory warmed.
    warm_size = size if args.device.startswith("cuda") else min(size, WARM_UP_SIZE)
    warm_up = work_for(model, warm_size, batch, dtype, args.device, steps and min(steps, 2), args.guidance)
    label = f"{size} px, batch {batch}, {str(dtype).removeprefix('torch.')}"
    composer = Composer(work) if args.compose else None
    spend = composer.seconds if composer else None
    rows = measure(model, work, warm_up, variants, args.runs, args.device if args.memory else None, label, spend)
    shape = build_unet(args.arch or "sd15", "diffusers", device="meta") if args.macs else None
    for row, variant in zip(rows, variants):
        if composer:
            row["steps"] = composer.seconds_by_step.get(row["variant"], [])
        if shape is not None:
            # Relative to plain; None where they cannot be counted.
            guided = args.whole and args.guidance > 1
            row["macs"] = macs_of_pass(shape, size, batch, variant, args.steps if args.whole else 1, guided, args.device)
    return rows


def table(result: dict[str, Any]) -> str:
    """The results as a Markdown table; the ratio is the first variant's time over this one's."""
    s, m = result["settings"], result["machine"]
    of = f"single {result.get('called', 'U-Net')} calls"
    if s["whole"] == "True":
        of = f"generations of {s['steps']} steps, guidance {s['guidance']}"
    if s.get("compose") == "True":
        of += ", composed (each kind of step timed, times how often it occurs)"
    memory = any(row["peak_mib"] is not None for row in result["rows"])
    macs = any("macs" in row for row in result["rows"])
    head = ["size", "batch", "dtype", "variant", "min s", "median s", "spread", "ratio (min)", "ratio (median)"]
    head += ["MACs"] if macs else []
    head += ["peak MiB"] if memory else []
    lines = [
        f"{result['what']}; {of}; {m['device']}, {m['threads']} threads, torch {m['torch']}, {m['date']}",
        "",
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
    ]
    for row in result["rows"]:
        cells = [str(row["size"]), str(row["batch"]), row["dtype"], row["variant"]]
        if row.get("not_run"):
            cells += [f"not run: {row['not_run']}".replace("|", "/")] + [""] * (len(head) - 5)
        else:
            cells += [f"{row['min']:.3g}", f"{row['median']:.3g}", f"{row['spread']:.0%}"]
            cells += [f"{row['ratio_of_min']:.2f}", f"{row['ratio_of_median']:.2f}"]
            cells += ["-" if row.get("macs") is None else f"{row['macs']:.1%}"] if macs else []
            cells += ["-" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"] if memory else []
        lines.append(f"| {' | '.join(cells)} |")
    if result.get("stopped"):
        lines += ["", "Stopped: what comes after these rows was not measured."]
    return "\n".join(lines)
