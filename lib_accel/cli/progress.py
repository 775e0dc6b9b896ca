"""One progress bar for all of a command's work, where somebody looks at it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Progress:
    """A bar of ``total`` steps on the terminal; nothing where there is no terminal, or no tqdm."""

    def __init__(self, total: int, what: str) -> None:
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            tqdm = None
        self._bar = tqdm(total=total, desc=what, file=sys.stderr, leave=False) if tqdm and sys.stderr.isatty() else None

    def says(self, what: str) -> None:
        """What is at work now."""
        if self._bar is not None:
            self._bar.set_description_str(what, refresh=False)

    def update(self, steps: int = 1) -> None:
        if self._bar is not None:
            self._bar.update(steps)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    # What a diffusers pipeline asks of its own bar.

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: Any) -> None:
        """One pass is over, not the work."""


@contextmanager
def progress(pipeline: Any, total: int, what: str) -> Iterator[Progress]:
    """A bar that the steps of ``pipeline`` move on, in place of one bar for each of its passes. total: steps of all passes."""
    bar = Progress(total, what)
    had = vars(pipeline).get("progress_bar")
    pipeline.progress_bar = lambda iterable=None, total=None: bar if iterable is None else iterable
    try:
        yield bar
    finally:
        bar.close()
        if had is None:
            del pipeline.progress_bar
        else:
            pipeline.progress_bar = had
