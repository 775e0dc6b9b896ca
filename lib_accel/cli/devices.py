"""The device that `--device` names: whether it is there, what it is called, and waiting for what was started on it."""

from __future__ import annotations

import platform

import torch

from .errors import CommandError


def use_device(device: str) -> None:
    """Make ``device`` the one that `wait` waits for. CommandError, one sentence, where there is no such device."""
    try:
        meant = torch.device(device)
        if meant.type == "cuda":
            # Nothing is put on it yet: under a launcher each process has its own.
            if (meant.index or 0) >= torch.cuda.device_count():
                raise RuntimeError("no such device")
            if meant.index is not None:
                torch.cuda.set_device(meant)
        else:
            torch.zeros(1, device=meant).cpu()
    except Exception as error:
        there = _there()
        choice = f"one of {', '.join(there)}" if len(there) > 1 else there[0]
        raise CommandError(f"--device is {device!r}; on this machine it must be {choice}.") from error


def _there() -> list[str]:
    count = torch.cuda.device_count()
    found = ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]
    return found + [kind for kind in ("mps", "xpu") if _is_there(kind)]


def _is_there(kind: str) -> bool:
    return hasattr(torch, kind) and getattr(torch.backends, kind, getattr(torch, kind)).is_available()


def wait() -> None:
    """Until the GPU has done what it was given; a processor has."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    for kind in ("mps", "xpu"):
        if _is_there(kind):
            getattr(torch, kind).synchronize()


def name_of(device: str) -> str:
    """What ``device`` is called in results."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU" if kind == "cpu" else f"{kind} of {platform.machine()}"
