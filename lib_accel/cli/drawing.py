"""What the commands that draw with prompts share: their arguments about the model and the pass, and opening it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from .. import sample
from .bench import DTYPES
from .models import open_pipeline


def add_drawing_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """--negative-prompt, --steps, --guidance, --seed, --size, --model, --config, --device, --dtype, --out."""
    parser.add_argument("--negative-prompt", default="")
    parser.add_argument("--steps", type=int, default=sample.DEFAULT_STEPS)
    parser.add_argument("--guidance", type=float, default=sample.DEFAULT_GUIDANCE)
    parser.add_argument("--seed", type=int, default=1, help="a whole number of any size")
    parser.add_argument("--size", type=int, help="pixels a side, a multiple of 8 (default: the model's own)")
    parser.add_argument("--model", type=Path, help="a diffusers folder or a .safetensors checkpoint (default: the sample model)")
    parser.add_argument("--config", type=Path, help="with a checkpoint: a diffusers folder of the same kind of model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="default: float16 on a GPU, else float32")
    parser.add_argument("--out", type=Path, default=Path(out), help=f"folder for the pictures (default: {out})")


def open_for_drawing(args: argparse.Namespace) -> tuple[Any, str]:
    """The pipeline, without its progress bars, and a line about what it is."""
    dtype = DTYPES[args.dtype or ("float16" if args.device.startswith("cuda") else "float32")]
    pipeline, what = open_pipeline(args.model, args.config, args.device, dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, what
