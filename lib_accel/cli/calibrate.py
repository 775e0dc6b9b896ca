"""`calibrate`: measure on this machine from how many tokens on each method pays, and keep the table for `auto`."""

from __future__ import annotations

import argparse
from functools import partial

import torch

from ..api import accelerated
from ..engine.thresholds import FEWEST, NEVER, device_name, own_path, write_own
from ..methods.registry import with_least
from .architectures import ARCHITECTURES, Architecture, at_hand, build_unet
from .errors import CommandError
from .inputs import UNetInputs
from .measuring import timed
from .models import add_device_argument
from .workloads import as_hosts_run_it

# The top level of SD1.x alone: three transformer blocks of 320 channels between their convolutions.
TOP_LEVEL = Architecture((320,), (1,), None, 8, 768)
GRIDS = (16, 24, 32, 48, 64, 96, 128)
METHODS = {method.__name__: method.example() for method in with_least().values()}
# A method must save this share of a level's time before it is said to pay there.
MARGIN = 0.03


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_device_argument(parser)
    parser.add_argument("--runs", type=int, default=5, help="timed calls per size and method (default: %(default)s)")
    parser.add_argument(
        "--largest", type=int, default=96, choices=GRIDS[2:], help="largest grid side in tokens (default: 96, which is 768 pixels)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the table, save nothing")


def run(args: argparse.Namespace) -> int:
    if not 1 <= args.runs <= 1000:
        raise CommandError(f"--runs is {args.runs}; it must be a whole number from 1 to 1000.")
    device = torch.device(args.device)
    ratios = measure(device, [side for side in GRIDS if side <= args.largest], args.runs)
    table = {method: least_tokens(by_tokens) for method, by_tokens in ratios.items()}
    for method, tokens in table.items():
        print(f"{method}: " + ("never pays up to this size" if tokens >= NEVER else f"pays from {tokens} tokens on"))
    print(f"Below {FEWEST} tokens no method acts all the same: there it changes pictures more than the time is worth.")
    if not args.dry_run:
        try:
            print(f"Kept for {device_name(device)} in {write_own(device, table)}.")
        except OSError as error:
            why = f"the table could not be kept in {own_path()}: {error.strerror}; ACCEL_DATA names another folder."
            raise CommandError(why) from error
    return 0


def measure(device: torch.device, sides: list[int], runs: int) -> dict[str, dict[int, float]]:
    """For each method: tokens -> plain time over its time, of the least of ``runs`` calls taken in turn."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    ARCHITECTURES.setdefault("top-level", TOP_LEVEL)
    # By way of the base class: diffusers' own `to` warns about layers to keep in float32, of which there are none.
    unet = torch.nn.Module.to(build_unet("top-level", at_hand()), device, dtype)
    ratios: dict[str, dict[int, float]] = {method: {} for method in METHODS}
    with torch.no_grad(), as_hosts_run_it(unet, str(device), dtype):
        for side in sides:
            call = UNetInputs(unet, side * 8, 2, dtype, device)
            seconds: dict[str, list[float]] = {name: [] for name in ("plain", *METHODS)}
            for turn in range(runs + 1):
                for name, spent in seconds.items():
                    with accelerated(unet, *([METHODS[name]] if name in METHODS else []), auto=False):
                        spent.append(timed(partial(call, unet)))
                    if not turn:
                        spent.clear()
            least = {name: min(spent) for name, spent in seconds.items()}
            for method in METHODS:
                ratios[method][side * side] = least["plain"] / least[method]
            print(f"  {side}x{side} tokens: " + ", ".join(f"{m} {r[side * side]:.2f}x" for m, r in ratios.items()), flush=True)
    return ratios


def least_tokens(ratios: dict[int, float]) -> int:
    """The token count from which on the method saves at least `MARGIN` at every larger size that was measured."""
    least = NEVER
    for tokens in sorted(ratios, reverse=True):
        if ratios[tokens] < 1 + MARGIN:
            break
        least = tokens
    return least
