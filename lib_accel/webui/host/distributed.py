"""Beside the extension Distributed, whose master sends parts of a job to other WebUIs: what these are told, what stays here, who drew what.

The master copies the host's processing object and the values of all scripts into requests (papuSpartan/stable-diffusion-webui-distributed
2.3.0, `before_process`), and puts the pictures that come back behind its own last batch (`postprocess_batch_list`).
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ...settings.infotext import PRESET_KEY, REPORT_KEY

TITLE = "distribute"
HERE = "Distributed is at work: all pictures of this script are drawn on this machine, because they belong together."
_REPORT = re.compile(rf"(?:^|, |\n){re.escape(REPORT_KEY)}: ([^,\n]*)")

_SETTINGS = re.compile(rf"(?:^|, |\n){re.escape(PRESET_KEY)}: ")


class Remote(NamedTuple):
    """A picture that another machine drew. report: Accel's line from there, None where it is not installed. acted: whether it took part: an
    older version refuses settings that it does not know."""

    machine: str
    report: str | None
    acted: bool


def script_of(p: Any) -> Any:
    """Distributed's script if it shares out jobs such as ``p``, else None."""
    for script in getattr(getattr(p, "scripts", None), "alwayson_scripts", None) or ():
        world = getattr(script, "world", None)
        if world is not None and script.title().lower() == TITLE:
            of_images = bool(getattr(p, "init_images", None))
            return script if getattr(world, "enabled_i2i" if of_images else "enabled", True) else None
    return None


def keep_here(p: Any) -> bool:
    """Make ``p``, a copy that nobody else has, a job that is not shared out. Whether it would have been."""
    theirs = script_of(p)
    if theirs is None:
        return False
    runner = copy.copy(p.scripts)
    for name in ("scripts", "alwayson_scripts"):
        setattr(runner, name, [script for script in getattr(runner, name) if script is not theirs])
    if hasattr(runner, "callback_map"):
        runner.callback_map = {}
    p.scripts = runner
    return True


def name_values(p: Any, script: Any, given: Mapping[str, Any]) -> None:
    """Put the settings ``given``, by name, in the place of our ``script``'s values: other versions of Accel have others."""
    args = list(p.script_args)
    args[script.args_from] = dict(given)
    p.script_args = tuple(args)


def remotes(p: Any) -> list[Remote]:
    """The pictures of other machines, in the order in which they stand behind those of the last batch; none before they came."""
    theirs, found = script_of(p), []
    for job in getattr(getattr(theirs, "world", None), "jobs", None) or ():
        worker = job.worker
        response = getattr(worker, "response", None)
        if not isinstance(response, Mapping) or job.batch_size < 1 or getattr(worker, "master", False):
            continue
        infotexts = _infotexts(response)
        for number in range(len(response.get("images") or ())):
            infotext = infotexts[number] if number < len(infotexts) else ""
            said = _REPORT.search(infotext)
            found.append(Remote(str(worker.label), said and said[1], bool(said and _SETTINGS.search(infotext))))
    return found


class Shares:
    """Who draws the pictures of a job's last batch: those drawn here come first, those of other machines behind them."""

    def __init__(self) -> None:
        self._here = self._written = 0
        self._others: list[Remote] = []

    def begin_batch(self, p: Any) -> None:
        self._here, self._written, self._others = p.batch_size, 0, []

    def next_picture(self, p: Any) -> Remote | None:
        """The next picture gets its PNG info: who drew it, if it was another machine."""
        number = self._written - self._here
        self._written += 1
        if number >= 0 and not self._others:
            self._others = remotes(p)
        return self._others[number] if 0 <= number < len(self._others) else None

    def told(self, p: Any) -> str | None:
        """All pictures are drawn: see `told`."""
        return told(self._others or remotes(p))


def told(pictures: list[Remote]) -> str | None:
    """Who drew what (a clause); None when nobody else drew anything."""
    parts = []
    for machine in dict.fromkeys(picture.machine for picture in pictures):
        acted = [picture.acted for picture in pictures if picture.machine == machine]
        how = "all with Accel" if all(acted) else f"{sum(acted)} with Accel" if any(acted) else "without Accel"
        parts.append(f"{machine} {len(acted)} ({how})")
    return f"pictures of other machines: {', '.join(parts)}; the rest of this line is about those of this machine" if parts else None


def _infotexts(response: Mapping[str, Any]) -> list[str]:
    try:
        return [str(text) for text in json.loads(response["info"])["infotexts"]]
    except (KeyError, TypeError, ValueError):
        return []
