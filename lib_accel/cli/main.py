"""Finds the command, parses its arguments, and turns expected errors into one sentence."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable

from ..core.fields import SettingError
from ..core.sites import UnsupportedModelError
from .errors import CommandError
from .processes import is_first, quiet_but_first

COMMANDS = {
    "demo": "draw pictures plain and accelerated, side by side, with times",
    "check": "find a model's layers, apply and remove every method, compare",
    "bench": "time U-Net calls and whole generations with and without methods, interleaved",
    "info": "where attention sits, what a U-Net call multiplies, and what each preset leaves of it",
    "calibrate": "measure on this machine from what size on each method pays",
    "edit": "a picture and versions of it by edited prompts that keep its composition (Prompt-to-Prompt)",
    "maps": "where a picture's cross-attention looked for words of its prompt",
    "quality": "what each method changes in the pictures: distance, tone, detail, what they show, time",
}

# Under a launcher of several processes these share the work; the others run in the first process alone.
SHARED = ("edit", "quality")


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 when a check failed, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m lib_accel", description="Faster sampling for Stable Diffusion U-Nets.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {}
    for name, summary in COMMANDS.items():
        modules[name] = importlib.import_module(f".{name}", __package__)
        modules[name].add_arguments(commands.add_parser(name, help=summary, description=summary.capitalize() + "."))
    args = parser.parse_args(argv)
    if args.command not in SHARED and not is_first():
        return 0
    with quiet_but_first():
        return _run(modules[args.command].run, args)


def _run(command: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    try:
        return command(args)
    except (CommandError, SettingError, UnsupportedModelError) as error:
        print(f"{args.command}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == __package__.split(".")[0]:
            raise
        print(f"{args.command}: the package {error.name!r} is missing; install the extra: pip install '.[demo]'", file=sys.stderr)
        return 2
