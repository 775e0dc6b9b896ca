"""What the commands that draw with prompts share: their arguments about the model and the pass, checking them, opening the model."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import sample
from ..settings.presets import PRESETS
from .bench import DTYPES
from .errors import CommandError
from .models import add_device_argument, open_pipeline
from .samplers import SAMPLERS, check_sampler, use_sampler


def add_drawing_arguments(parser: argparse.ArgumentParser, out: str, size: str = "the model's own") -> None:
    """--negative-prompt, --seed, --size, and those of `add_pass_arguments`. size: in words, the one without --size."""
    parser.add_argument("--negative-prompt", default="", help="what the picture must not show (default: nothing)")
    parser.add_argument("--seed", type=int, default=1, help="a whole number of any size (default: %(default)s)")
    parser.add_argument("--size", type=int, help=f"pixels a side, a multiple of 8 (default: {size})")
    add_pass_arguments(parser, out, "the pictures")


def add_pass_arguments(parser: argparse.ArgumentParser, out: str, holds: str) -> None:
    """--steps, --guidance, --model, --config, --device, --dtype, --out. holds: in words, what the folder --out is for."""
    parser.add_argument("--steps", type=int, default=sample.DEFAULT_STEPS, help="sampling steps (default: %(default)s)")
    parser.add_argument(
        "--guidance", type=float, default=sample.DEFAULT_GUIDANCE, help="CFG scale; 1 or less: no guidance (default: %(default)g)"
    )
    parser.add_argument("--model", type=Path, help="a diffusers folder or a .safetensors checkpoint (default: the sample model)")
    parser.add_argument("--config", type=Path, help="with a checkpoint: a diffusers folder of the same kind of model")
    add_device_argument(parser)
    parser.add_argument("--dtype", choices=DTYPES, help="default: float16 on a GPU, else float32")
    parser.add_argument("--out", type=Path, default=Path(out), help=f"folder for {holds} (default: {out})")


def add_sampler_argument(parser: argparse.ArgumentParser) -> None:
    """--sampler; `check_pass` checks it, `open_for_drawing` uses it."""
    parser.add_argument("--sampler", metavar="NAME", help=f"one of {', '.join(SAMPLERS)} (default: the model's own)")


def check_presets(names: Iterable[str]) -> None:
    """CommandError for a name of --preset that is none."""
    for name in names:
        if name.lower() not in PRESETS:
            raise CommandError(f"--preset is {name!r}; it must be one of {', '.join(PRESETS)}.")


def check_side(side: int, name: str = "--size") -> None:
    """CommandError for a side [pixels] that pictures cannot have. name: the option."""
    if side < 64 or side % 8:
        raise CommandError(f"{name} is {side}; it must be a multiple of 8 from 64 on.")


def check_pass(args: argparse.Namespace, sizes: Iterable[int], **most: int) -> None:
    """CommandError for a side, a number of steps or a guidance scale that cannot be, or an argument of ``most`` outside 1 to its number."""
    for size in sizes:
        check_side(size)
    for name, high in {"steps": 1000, **most}.items():
        if not 1 <= getattr(args, name) <= high:
            raise CommandError(f"--{name} is {getattr(args, name)}; it must be a whole number from 1 to {high}.")
    check_sampler(getattr(args, "sampler", None))
    if not 0 <= args.guidance <= 100:
        raise CommandError(f"--guidance is {args.guidance}; it must be a number from 0 to 100.")


def open_for_drawing(args: argparse.Namespace) -> tuple[Any, str]:
    """The pipeline, without its progress bars, and a line about what it is."""
    dtype = DTYPES[args.dtype or ("float16" if args.device.startswith("cuda") else "float32")]
    pipeline, what = open_pipeline(args.model, args.config, args.device, dtype)
    pipeline.set_progress_bar_config(disable=True)
    use_sampler(pipeline, getattr(args, "sampler", None))
    return pipeline, what
