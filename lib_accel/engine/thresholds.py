"""`auto`: from how many tokens on a method pays, by device and kind of attention kernel.

Nothing is measured inside a job: a table decides. One is built in; `python -m lib_accel calibrate` writes this machine's own.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..core.fields import SettingError, checked
from ..core.reasons import Reason

VERSION = 1
NEVER = 1 << 60
# On fewer tokens no method acts by a table, whatever time it saves: at 1024 tokens that is a few per cent of a picture that is quick, and
# fewer pictures show what the prompt says (docs/benchmarks.md, "Do pictures still show the prompt").
FEWEST = 2048

# Tokens (h*w) at a level from which a method saves time there, by kind of device and method: what methods declare. Processors: `calibrate`
# measured gains from 256 tokens on (see benchmarks); below 1024 they are a few per cent of a picture whose tokens are few already.
# GPUs with fused kernels: from published timings of merging beside such kernels (nothing at 64x64, 10 % at 96x96), with matching shared by
# a level. Unfused kernels hold whole attention maps: fewer tokens pay at once.
BUILT_IN: dict[str, dict[str, int]] = {"cpu": {}, "gpu": {}, "gpu unfused": {}}


def declare_least(method: str, least: Mapping[str, int] | None) -> None:
    """From how many tokens on ``method`` pays, by kind of device (see `BUILT_IN`); None: at every size."""
    for kind, tokens in (least or {}).items():
        BUILT_IN[kind][method] = tokens


def methods_with_least() -> list[str]:
    """The methods that pay only from some number of tokens on."""
    return list(dict.fromkeys(name for table in BUILT_IN.values() for name in table))


@dataclass(frozen=True)
class Thresholds:
    """A table of least token counts by method name. SettingError for a name of no method on tokens and for a count out of range.

    least: method -> tokens, 0 or more; a method that is not listed acts everywhere. origin: where the table came from, for the report.
    """

    least: Mapping[str, int] = field(default_factory=dict)
    origin: str = "given"

    def __post_init__(self) -> None:
        if not isinstance(self.least, Mapping):
            raise SettingError(f"Thresholds.least is {self.least!r}; it must be a mapping of method names to tokens.")
        known = methods_with_least()
        for name in self.least:
            if name not in known:
                raise SettingError(f"Thresholds.least names {name!r}; it must name methods on tokens: {', '.join(known)}.")
        rule = {"kind": "integer", "low": 0, "high": None}
        least = {name: checked(f"Thresholds.least[{name!r}]", tokens, rule) for name, tokens in self.least.items()}
        object.__setattr__(self, "least", least)

    def refusal(self, method: str, tokens: int) -> str | None:
        """Why ``method`` would not pay on ``tokens`` tokens (a clause for the report), or None when it does."""
        least = self.least.get(method, 0)
        if tokens >= least:
            return None
        if least >= NEVER:
            return Reason.of("never_pays", "not worth it on {tokens} tokens", tokens=tokens)
        return Reason.of("too_small", "not worth it on {tokens} tokens, but from {least} on", tokens=tokens, least=least)

    def as_dict(self) -> dict[str, Any]:
        """What decides, ready for JSON; `Thresholds(**as_dict())` decides the same again."""
        return {"least": dict(self.least), "origin": self.origin}


def thresholds_for(device: torch.device, fused: bool = True) -> tuple[Thresholds, str | None]:
    """The table for ``device``, `FEWEST` or more for each method, and a sentence when this machine's own had to be ignored.

    fused: whether the attention kernel in force avoids whole attention maps (scaled-dot-product, xFormers).
    """
    kind = "cpu" if device.type == "cpu" else ("gpu" if fused else "gpu unfused")
    own, complaint = read_own(device) if fused else (None, None)
    least, origin = (BUILT_IN[kind], f"built in for {kind}") if own is None else (own, "calibrated on this machine")
    return Thresholds({method: max(FEWEST, tokens) for method, tokens in least.items()}, origin), complaint


def device_name(device: torch.device) -> str:
    """What a calibration holds for: the GPU's name, or the processor's with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()}, {torch.get_num_threads()} threads"


def own_path() -> Path:
    """This user's calibration file, in the system's place for such data; ACCEL_DATA names another folder."""
    if os.environ.get("ACCEL_DATA"):
        return Path(os.environ["ACCEL_DATA"]) / "thresholds.json"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "sd-webui-accel" / "thresholds.json"


def read_own(device: torch.device) -> tuple[dict[str, int] | None, str | None]:
    """This machine's calibration for ``device``; or None, with a sentence when there is one that does not fit."""
    try:
        path = own_path()
    except RuntimeError:
        # In a container whose user has no home there is no place for one.
        return None, None
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"the calibration {path} was ignored: {error.strerror}"
    try:
        data = json.loads(text.decode("utf-8-sig"))
        version = data["version"]
        table = data["devices"].get(device_name(device))
        if version != VERSION:
            return None, f"the calibration {path} was ignored: it is of version {version!r}, not {VERSION}"
        if table is None:
            return None, f"the calibration {path} was ignored: it was made on another device"
        # Another version may have had other methods.
        least = {method: int(tokens) for method, tokens in table.items() if method in methods_with_least()}
        if any(tokens < 0 for tokens in least.values()):
            raise ValueError("a number of tokens below 0")
        return least, None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None, f"the calibration {path} was ignored: it is damaged; run `python -m lib_accel calibrate` again"


def write_own(device: torch.device, table: Mapping[str, int]) -> Path:
    """Keep ``table`` (method -> least tokens) for ``device``, beside other devices' of the same version. Replaces the file at once."""
    path = own_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    devices: dict[str, Any] = {}
    try:
        before = json.loads(path.read_bytes().decode("utf-8-sig"))
        if before.get("version") == VERSION:
            devices = dict(before["devices"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        pass
    devices[device_name(device)] = dict(table)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps({"version": VERSION, "torch": torch.__version__, "devices": devices}, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    return path
