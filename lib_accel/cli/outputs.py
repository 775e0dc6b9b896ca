"""Where results go: folders and files are there, and can be written to, before the work begins."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import CommandError


def prepare_folder(option: str, folder: Path) -> None:
    """Make ``folder``, which ``option`` names, where it is not there yet. CommandError where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise CommandError(f"{option} is {str(folder)!r}; it must be a folder that can be written to ({error.strerror}).") from error


def prepare_file(option: str, file: Path | None) -> None:
    """Make the folder of ``file``, which ``option`` names. CommandError where it cannot be written. None: it was not given."""
    if file is None:
        return
    if file.is_dir() or (file.exists() and not os.access(file, os.W_OK)):
        raise CommandError(f"{option} is {str(file)!r}; it must be a file that can be written.")
    prepare_folder(f"the folder of {option}", file.parent)
