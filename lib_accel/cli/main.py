"""Finds the command, parses its arguments, and turns expected errors into one sentence."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from ..core.fields import SettingError
from ..core.sites import UnsupportedModelError
from .errors import CommandError
from .processes import is_first, quiet_but_first

PROGRAM = "python -m lib_accel"
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


# What most people come for, with an example that can be pasted.
JOBS = (
    ("See what it does, on the model that comes with it", "demo"),
    ("Is my model supported?", "check model.safetensors"),
    ("How much faster, on this machine?", "bench --whole --variants plain balanced fast draft"),
    ("What changes in the pictures?", "quality --count 4 --prompt 'a cat' --model model.safetensors"),
    ("Edit a picture by editing its prompt", "edit 'a red star on grass' 'a blue star on grass'"),
    ('Adapt "only where it pays" to this machine', "calibrate"),
)


def short_help(program: str = PROGRAM) -> str:
    """What is printed where no command is given."""
    jobs = "".join(f"  {what}\n      {program} {example}\n" for what, example in JOBS)
    commands = "".join(f"  {name:<10} {summary}\n" for name, summary in COMMANDS.items())
    return (
        f"Faster sampling for Stable Diffusion and other diffusion models.\n\n{jobs}\nAll commands:\n{commands}\n"
        f"{program} COMMAND --help explains one. The line under a picture, every setting: docs/guide.md\n"
    )


def parser_of(program: str = PROGRAM) -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    """The parser of all commands, and the module of each."""
    parser = argparse.ArgumentParser(prog=program, description="Faster sampling for Stable Diffusion and other diffusion models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {}
    for name, summary in COMMANDS.items():
        modules[name] = importlib.import_module(f".{name}", __package__)
        modules[name].add_arguments(commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."))
    return parser, modules


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 when a check failed, 2 for bad input."""
    program = "accel" if Path(sys.argv[0]).stem == "accel" else PROGRAM
    if not (sys.argv[1:] if argv is None else argv):
        print(short_help(program), end="")
        return 0
    parser, modules = parser_of(program)
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
