"""Requests to the host's API: what PNG info in them means for our scripts, and how a refusal reaches whoever asked.

gradio and fastapi are imported where they are needed: the tables of settings are read without a host, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# By its name, what the parsed PNG info sets a field of a request to; None leaves it.
Readers = Mapping[str, Callable[[dict[str, Any]], Any]]


def infotext_fields(readers: Readers) -> list[Any]:
    """What a script adds to its `infotext_fields` so that a request with ``infotext`` has these fields set. Inside the host's blocks.

    The host reads no script's name and arguments from there by itself, and without them draws a plain picture.
    """
    import gradio as gr

    try:
        from modules.infotext_utils import PasteField
    except ImportError:  # Before 1.8.
        return []
    return [PasteField(gr.Textbox("", visible=False), reader, api=name) for name, reader in readers.items()]


def is_one(p: Any) -> bool:
    """Whether the job ``p`` was asked for through the API."""
    return bool(getattr(p, "is_api", False))


def by_name(args: tuple) -> Mapping[str, Any] | None:
    """A script's arguments when they are one object; None for a list of values. What a request leaves out of such a list the host fills
    with the arguments of other scripts, so that a list cannot be trusted there."""
    return args[0] if args and isinstance(args[0], Mapping) else None


def in_their_places(p: Any, script: Any) -> tuple:
    """The values of all scripts of the job ``p``, each in its place. A request gave ``script`` one object, where it has many controls.

    The host moves whatever stands behind them forward: the accordion's values too, if the user's order of the page has it below the
    scripts. What a request says of always-on scripts is put at their own places after that; of these an object by name can be told.
    """
    values = list(p.script_args)
    missing = len(p.scripts.inputs) - len(values)
    if missing <= 0 or not is_one(p):
        return tuple(values)
    whole = values[: script.args_from + 1] + [None] * missing + values[script.args_from + 1 :]
    for other in p.scripts.alwayson_scripts:
        given = by_name(tuple(values[other.args_from : other.args_to]))
        if given is not None and other.args_from > script.args_from:
            whole[other.args_from] = given
    return tuple(whole)


def refusal(p: Any, error: Exception, status: int = 422) -> Exception:
    """What to raise so that the sentence of ``error`` reaches whoever asked for ``p``: clients of the API see no other exception's."""
    from fastapi import HTTPException

    return HTTPException(status, str(error)) if is_one(p) else error
