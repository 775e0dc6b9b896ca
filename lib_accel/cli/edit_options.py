"""What `edit` is told on the command line: its options, and what their words mean."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import in_words
from ..image_editing.inversion import INVERSIONS
from ..image_editing.options import VARIANTS
from ..prompt_to_prompt import KINDS, Edit, LocalBlend, window_of
from .drawing import add_drawing_arguments
from .errors import CommandError

# By what the library calls these settings in its errors.
OPTIONS = {
    "EditOptions.guidance": "--guidance",
    "EditOptions.pictures_at_once": "--at-once",
    "EditOptions.steps": "--steps",
    "EditOptions.strength": "--strength",
    "LocalBlend.source": "--blend",
    "LocalBlend.start": "--blend-start",
    "LocalBlend.threshold": "--threshold",
    "PromptToPrompt.cross_layers": "--cross-layers",
    "PromptToPrompt.self_layers": "--self-layers",
    "height": "--size",
    "image": "--image",
    "inversion": "--inversion",
    "pictures_at_once": "--at-once",
    "seed": "--seed",
    "source_latent": "--source-latent",
    "strength": "--strength",
    "width": "--size",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="the prompt of the picture that is edited")
    parser.add_argument(
        "edits", nargs="*", default=[], metavar="EDIT", help="edited prompts; without any, the source prompt with the weights of --weight"
    )
    parser.add_argument(
        "--kind", choices=KINDS, default="auto", help="auto (the default): replace if both prompts have as many words, else refine"
    )
    parser.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="WORD:FACTOR",
        help="weight of a word in the edited prompts, -1000 to 1000; may be repeated",
    )
    parser.add_argument(
        "--cross", default="0.8", metavar="VALUES", help="windows of cross-attention, a column each: 0,0.4,0.2-0.8 (default: %(default)s)"
    )
    parser.add_argument(
        "--self",
        default="0.4",
        metavar="VALUES",
        dest="self_attention",
        help="windows of self-attention, a row each (default: %(default)s)",
    )
    parser.add_argument(
        "--word-window", action="append", default=[], metavar="WORD:WINDOW", help="a window for one word: lion:0.4; may be repeated"
    )
    parser.add_argument(
        "--cross-layers",
        default="all",
        help="all (the default), or down, mid, up, 1/4 (and coarser), =1/4 (only that), 256 (at most so many tokens), joined by +",
    )
    parser.add_argument("--self-layers", default="1/4", help="as --cross-layers, of self-attention (default: %(default)s)")
    parser.add_argument(
        "--self-source",
        choices=("map", "value", "keys_values", "none"),
        default="map",
        help="what self-attention takes from the source: the map, the values, keys and values, nothing (default: %(default)s)",
    )
    parser.add_argument("--blend", metavar="WORDS:WORDS", help="words of the source and of the edits that may change: circle:square, a+b:c")
    parser.add_argument("--subtract", default="", metavar="WORDS", help="with --blend: words whose places must not change, joined by +")
    parser.add_argument("--threshold", type=float, help="with --blend: higher blends less, 0 to 1 (default: 0.3)")
    parser.add_argument("--blend-start", type=float, help="with --blend: fraction of the pass from which it acts (default: 0.2)")
    parser.add_argument("--composite", action="store_true", help="with --blend: paste the source's pixels outside the mask")
    parser.add_argument(
        "--variant",
        choices=VARIANTS,
        default="accel",
        help="how words of the two prompts are paired: our way, or that of one of the released codes (default: %(default)s)",
    )
    parser.add_argument(
        "--source-latent",
        choices=("own", "shared"),
        default="own",
        help="own: the source has a picture of its own; shared: it is seen on the edited picture (default: %(default)s)",
    )
    parser.add_argument("--image", type=Path, help="a real picture to edit; the source prompt describes it")
    parser.add_argument("--strength", type=float, help="with --image: how much of the pass is run, 0 to 1")
    parser.add_argument("--inversion", choices=INVERSIONS, help="with --image: find the noise that the picture would be drawn from")
    parser.add_argument("--at-once", type=int, default=4, help="pictures in one batch, the source included (default: %(default)s)")
    add_drawing_arguments(parser, "accel-edit")


@dataclass(frozen=True)
class EditCell:
    """One edited picture of the grid."""

    prompt: str | None
    cross: Any
    self_attention: Any


def cells_of(args: argparse.Namespace) -> list[EditCell]:
    prompts = args.edits or [None]
    across, down = _windows("--cross", args.cross), _windows("--self", args.self_attention)
    return [EditCell(prompt, cross, own) for prompt in prompts for own in down for cross in across]


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    image = None
    for option, given in (("--strength", args.strength), ("--inversion", args.inversion)):
        if given is not None and args.image is None:
            raise CommandError(f"{option} is {given}; it needs --image, the picture to start from.")
    if args.image is not None:
        from PIL import Image

        written = args.image.name in ("source.png", "edit.png") or re.fullmatch(r"edit-\d+\.png", args.image.name)
        if written and args.image.resolve().parent == args.out.resolve():
            raise CommandError(f"--out is {str(args.out)!r}; it must be another folder than that of --image, which would be overwritten.")
        try:
            image = _upright(Image.open(args.image)).convert("RGBA")
        except OSError as error:
            why = "there is no such file" if isinstance(error, FileNotFoundError) else f"it could not be opened: {in_words(error)}"
            raise CommandError(f"--image is {str(args.image)!r}; {why}.") from error
        # What is transparent shows white.
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return {
        "cross_layers": args.cross_layers,
        "self_layers": args.self_layers,
        "self_source": None if args.self_source == "none" else args.self_source,
        "local_blend": _blend(args),
        "composite": args.composite,
        "variant": args.variant,
        "source_latent": args.source_latent,
        "negative_prompt": args.negative_prompt,
        "steps": args.steps,
        "guidance": args.guidance,
        "width": args.size,
        "height": args.size,
        "image": image,
        "strength": args.strength,
        "inversion": args.inversion,
        "pictures_at_once": args.at_once,
    }


def _upright(image: Any) -> Any:
    """A picture as programs show it: turned as its camera says, and of 16-bit greys the upper 8 bits."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))
    return image


def _blend(args: argparse.Namespace) -> LocalBlend | None:
    if args.blend is None:
        needing = {"--subtract": args.subtract, "--threshold": args.threshold, "--blend-start": args.blend_start}
        for option, given in needing.items():
            if given not in ("", None):
                raise CommandError(f"{option} is {given}; it needs --blend, the words that may change.")
        if args.composite:
            raise CommandError("--composite is given; it needs --blend, the words that may change.")
        return None
    source, _, edited = args.blend.partition(":")
    words = [tuple(filter(None, text.split("+"))) for text in (source, edited, args.subtract)]
    given = {"threshold": args.threshold, "start": args.blend_start}
    return LocalBlend(*words, **{name: value for name, value in given.items() if value is not None})


def _windows(name: str, text: str) -> list[Any]:
    try:
        return list(dict.fromkeys(_window(part) for part in text.split(",")))
    except ValueError:
        raise CommandError(f"{name} is {text!r}; it must be fractions from 0 to 1, or ranges of them, such as 0,0.4,0.2-0.8.") from None


def _window(text: str) -> Any:
    """A fraction, or ``0.2-0.8``. ValueError."""
    between = re.fullmatch(r"\s*([\d.]+)-([\d.]+)\s*", text)
    window = (float(between[1]), float(between[2])) if between else float(text)
    window_of("", window)
    return window


def _pair(name: str, text: str, value: Any, what: str) -> tuple[str, Any]:
    """A word and its ``value``, in words ``what``."""
    word, colon, number = text.rpartition(":")
    try:
        if colon and word:
            return word, value(number)
    except ValueError:
        pass
    raise CommandError(f"{name} is {text!r}; it must be a word, a colon and {what}.")


def edits_of(args: argparse.Namespace, cells: list[EditCell]) -> list[Edit]:
    """The edit of each cell. CommandError, SettingError."""
    weights = dict(_pair("--weight", text, float, "a number, such as blue:2") for text in args.weight)
    if not args.edits and not weights:
        raise CommandError("there is no edit; give edited prompts, or --weight WORD:FACTOR.")
    windows = dict(
        _pair("--word-window", text, _window, "a window from 0 to 1, such as lion:0.4 or lion:0.2-0.8") for text in args.word_window
    )
    return [
        Edit(cell.prompt, args.kind, weights, {"default_": cell.cross} | windows if windows else cell.cross, cell.self_attention)
        for cell in cells
    ]
