"""Runs the script Prompt-to-Prompt in the host double."""

from __future__ import annotations

from typing import Any

import numpy as np

from lib_accel.settings.infotext import read_back

TITLE = "Prompt-to-Prompt"
SOURCE = "a red cat"
SWAP = {"edits": "cat -> dog"}


def prepare(host: Any, settings: dict | list, tab: str = "txt2img", accel: Any = None, **fields: Any) -> Any:
    """A job with the script chosen. settings: by name, or as a list in the script's order."""
    p = host.p(tab, accel, **({"prompt": SOURCE, "steps": 4} | fields))
    script = host.script(tab, TITLE)
    args = list(p.script_args)
    args[0] = p.scripts.selectable_scripts.index(script) + 1
    count = script.args_to - script.args_from
    sent = [settings] if isinstance(settings, dict) else list(settings)
    args[script.args_from : script.args_to] = (sent + [None] * count)[:count]
    p.script_args = tuple(args)
    return p


def draw(host: Any, settings: dict | list, tab: str = "txt2img", accel: Any = None, **fields: Any) -> Any:
    """The script's result."""
    p = prepare(host, settings, tab, accel, **fields)
    host.shared.state.begin("job")
    return p.scripts.run(p, *p.script_args)


def parsed(infotext: str) -> dict[str, Any]:
    """As the host reads it."""
    from modules.infotext_utils import parse_generation_parameters

    return parse_generation_parameters(infotext)


def told(infotext: str) -> dict[str, Any]:
    """As people wrote it."""
    return {key: read_back(value) for key, value in parsed(infotext).items()}


def close(one: Any, other: Any) -> bool:
    """Whether two pictures are the same but for rounding, which depends on the size of the batch."""
    return np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max() <= 1
