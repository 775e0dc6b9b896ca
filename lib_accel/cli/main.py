"""Finds the command, parses its arguments, and turns expected errors into one sentence."""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from .. import __version__
from ..core.fields import SettingError
from ..core.sites import UnsupportedModelError
from .devices import use_device
from .errors import CommandError
from .parsing import Parser
from .processes import is_first, quiet_but_first, wait_for_first

PROGRAM = "python -m lib_accel"
COMMANDS = {
    "demo": "draw a picture without Accel and with each preset, side by side, with times",
    "check": "check that a model is supported: find its layers, apply and remove every method",
    "bench": "time U-Net calls or whole generations with and without methods, in turns",
    "info": "show where attention is, and how much of a U-Net call's work is left with each preset",
    "calibrate": "measure from which size on each method saves time on this machine",
    "edit": "draw a picture and edited versions of it with the same composition (Prompt-to-Prompt)",
    "maps": "draw where the model sees words of the prompt in a picture (cross-attention)",
    "quality": "measure what each method changes in pictures: distance, tone, detail, content, time",
}

# What the packages of the extra "demo" are imported as.
OF_THE_EXTRA = ("diffusers", "transformers", "safetensors", "numpy", "PIL", "skimage", "tqdm", "accelerate")

# Under a launcher of several processes these share the work; the others run in the first process alone.
SHARED = ("edit", "quality")


# What most people come for, with an example that can be pasted.
JOBS = (
    ("See what it does, on the model that comes with it", "demo"),
    ("Is my model supported? (a diffusers folder; a .safetensors checkpoint needs --config, too)", "check path/to/model"),
    ("How much faster, on this machine?", "bench --whole --runs 2 --variants plain balanced fast draft"),
    ("What changes in the pictures?", "quality --prompt 'a cat' 'a red car' --size 512 --model path/to/model"),
    (
        "Edit a picture by editing its prompt (the model that comes with it knows stars and rings, no cats)",
        "edit 'a red star on grass' 'a blue star on grass'",
    ),
    ('Adapt "only where it pays" to this machine', "calibrate"),
)


def short_help(program: str = PROGRAM) -> str:
    """What is printed where no command is given."""
    jobs = "".join(f"  {what}\n      {program} {example}\n" for what, example in JOBS)
    commands = "".join(f"  {name:<10} {summary}\n" for name, summary in COMMANDS.items())
    return (
        f"Faster sampling for Stable Diffusion and other diffusion models.\n\n{jobs}\nAll commands:\n{commands}\n"
        f"{program} COMMAND --help explains a command, docs/guide.md every setting.\n"
    )


def parser_of(program: str = PROGRAM) -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    """The parser of all commands, and the module of each."""
    parser = Parser(prog=program, description="Faster sampling for Stable Diffusion and other diffusion models.")
    parser.add_argument("--version", action="version", version=f"sd-webui-accel {__version__}", help="print the version")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {}
    for name, summary in COMMANDS.items():
        modules[name] = importlib.import_module(f".{name}", __package__)
        modules[name].add_arguments(
            commands.add_parser(name, command=name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        )
    return parser, modules


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 when a check failed, 2 for bad input, 130 when somebody stopped it."""
    spell_out_strange_letters()
    program = "accel" if Path(sys.argv[0]).stem == "accel" else PROGRAM
    if not (sys.argv[1:] if argv is None else argv):
        print(short_help(program), end="")
        return 0
    parser, modules = parser_of(program)
    args = parser.parse_args(argv)
    if args.command not in SHARED and not is_first():
        return 0
    with quiet_but_first():
        return _run(modules[args.command], args)


def spell_out_strange_letters() -> None:
    """Print letters that stdout does not have as Python spells them (``\\u661f``).

    On Windows a file or pipe behind stdout has Western letters alone: a Chinese prompt would end a command after all of its work.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _run(command: ModuleType, args: argparse.Namespace) -> int:
    """Run a command's module: its ``run``; ``OPTIONS``, if it has them, are its options by what the library calls these settings."""
    try:
        if hasattr(args, "device"):
            use_device(args.device)
        status = command.run(args)
        wait_for_first()
        return status
    except KeyboardInterrupt:
        print(f"{args.command}: stopped.", file=sys.stderr)
        return 130
    except (CommandError, SettingError, UnsupportedModelError) as error:
        print(f"{args.command}: {_by_option(str(error), getattr(command, 'OPTIONS', {}))}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == __package__.split(".")[0]:
            raise
        mend = "; install the extra: pip install '.[demo]'" if (error.name or "").split(".")[0] in OF_THE_EXTRA else ""
        print(f"{args.command}: the package {error.name!r} is missing{mend}", file=sys.stderr)
        return 2


def _by_option(sentence: str, options: Mapping[str, str]) -> str:
    """``sentence``, which begins with a setting, with the option that sets it."""
    name, is_, rest = sentence.partition(" is ")
    return f"{options[name]}{is_}{rest}" if name in options else sentence
