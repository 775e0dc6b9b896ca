"""What gradio 4.40 takes, for machines that have gradio 3: whatever the extension builds with must be known to both.

The names are those of gradio 4.40's signatures. Hosts that run on it turn ``_js`` into ``js`` themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

import gradio as gr
from gradio.events import EventListenerMethod

KNOWN = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
KEPT_ALIVE = {"_js"}


@contextmanager
def only_its_names() -> Iterator[list[str]]:
    """Building meanwhile; yields what is given that gradio 4 does not know, as ``component: name``."""
    strangers: list[str] = []
    watched = [(getattr(gr, name), "__init__", set(known)) for name, known in KNOWN.items() if name != "event"]
    watched.append((EventListenerMethod, "__call__", {*KNOWN["event"], *KEPT_ALIVE}))
    before = [(kind, method, vars(kind)[method]) for kind, method, _ in watched]
    for kind, method, known in watched:
        setattr(kind, method, _watching(vars(kind)[method], known, kind.__name__, strangers))
    try:
        yield strangers
    finally:
        for kind, method, function in before:
            setattr(kind, method, function)


def _watching(function, known, name, strangers):
    @wraps(function)
    def watching(*args, **kwargs):
        strangers.extend(f"{name}: {given}" for given in kwargs if given not in known)
        return function(*args, **kwargs)

    return watching
