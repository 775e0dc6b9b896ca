"""The user's own presets: one JSON file in the host's data folder, replaced at once, kept aside when it is broken."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from ...core.fields import SettingError
from ...settings.infotext import PRESET_KEY
from ...settings.job import CUSTOM, NOT_IN_PRESETS, Settings
from ...settings.presets import PRESETS
from ...settings.schema import KNOBS
from .refused import MARK

FILE = "accel-presets.json"
VERSION = 1

# What was told to nobody yet: the file may be read, and put aside, while the page is built.
_UNTOLD: list[str] = []
# Pages and jobs ask from threads of their own.
_LOCK = threading.RLock()


def path() -> Path:
    from modules import paths

    return Path(paths.data_path) / FILE


def read() -> tuple[dict[str, dict[str, Any]], str | None]:
    """The user's presets (name -> knob values), and a sentence when the file, or one of them, could not be used.

    A broken file is renamed, so that the next `save` does not lose what was in it.
    """
    presets, complaint = _in_file()
    usable, unusable = {}, []
    for name, values in presets.items():
        try:
            usable[checked_name(name)] = {k: v for k, v in Settings(values).changed().items() if k not in NOT_IN_PRESETS}
        except (SettingError, TypeError, ValueError, AttributeError):
            unusable.append(str(name)[:40])
    return usable, f"{FILE}: not understood: {', '.join(unusable)}" if unusable else complaint


def _in_file() -> tuple[dict[str, Any], str | None]:
    """The presets as the file has them, understood or not, and a sentence when it could not be read."""
    file = path()
    with _LOCK:
        try:
            # Editors of Windows put a mark before the text.
            data = json.loads(file.read_text(encoding="utf-8-sig"))
            if data["version"] != VERSION:
                return {}, f"{FILE} was not read: it is of version {data['version']!r}, not {VERSION}"
            return dict(data["presets"]), None
        except FileNotFoundError:
            return {}, None
        except OSError as error:
            return {}, f"{FILE} was not read: {error.strerror}"
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            return {}, _put_aside(file, type(error).__name__)


def untold() -> str | None:
    """The sentence about a file that was put aside, once."""
    return _UNTOLD.pop() if _UNTOLD else None


def save(name: str, values: Mapping[str, Any]) -> None:
    """Keep ``values`` as the preset ``name``, replacing one of that name. SettingError, OSError."""
    name = checked_name(name)
    kept = {k: KNOBS[k].text(v) for k, v in Settings(values).changed().items() if k not in NOT_IN_PRESETS}
    with _LOCK:
        _write({**_all_for_writing(), name: kept})


def delete(name: str) -> None:
    """Forget the preset ``name``, also one that is not understood. SettingError when there is none, OSError."""
    with _LOCK:
        presets = _all_for_writing()
        if name not in presets:
            raise SettingError(f"There is no preset of yours called {name[:40]!r}.")
        del presets[name]
        _write(presets)


def _all_for_writing() -> dict[str, Any]:
    """The presets to write back, changed; those that are not understood stay as they are. SettingError when what is in the file would be
    lost by that."""
    presets, complaint = _in_file()
    if complaint and path().exists():
        raise SettingError(f"Nothing was changed: {complaint}.")
    return presets


def checked_name(name: Any) -> str:
    """``name`` without spaces around it. SettingError for what PNG info could not carry or what means something else."""
    name = name.strip() if isinstance(name, str) else ""
    if not re.fullmatch(r"\w[\w \-]{0,39}", name) or re.fullmatch(r"\d+x\d+", name):
        raise SettingError(
            f"Name is {name[:40]!r}; it must have 1 to 40 letters, digits, spaces and hyphens, and not be a size such as 512x768."
        )
    if name.lower() in (*PRESETS, CUSTOM, "off", PRESET_KEY.lower(), MARK.strip(": ")):
        raise SettingError(f"Name is {name!r}; that one is taken, choose another.")
    return name


def _write(presets: Mapping[str, Any]) -> None:
    file = path()
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps({"version": VERSION, "presets": presets}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(file)


def _put_aside(file: Path, why: str) -> str:
    names = (file.with_suffix(f".broken-{n}.json" if n > 1 else ".broken.json") for n in count(1))
    aside = next(name for name in names if not name.exists())
    try:
        file.replace(aside)
    except OSError as error:
        return f"{FILE} is broken ({why}) and could not be renamed: {error.strerror}"
    _UNTOLD[:] = [f"{FILE} was broken ({why}); it is now {aside.name}"]
    return _UNTOLD[0]
