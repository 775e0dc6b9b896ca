"""Time and memory of the same work under several variants, in turn, in one process."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..core.errors import in_words
from .devices import name_of, wait
from .errors import CommandError
from .variants import Variant

MIB = 1 << 20
# Runs under a variant; is given the accelerator, or None.
Work = Callable[[Any], Any]


def timed(work: Callable[[], Any]) -> float:
    """Seconds of ``work``, to the end of what it started on a GPU."""
    wait()
    begin = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begin


def measure(
    model: Any,
    work: Work,
    warm_up: Work,
    variants: Sequence[Variant],
    runs: int,
    memory: str | None = None,
    label: str = "",
    spend: Callable[[Variant, Any], float] | None = None,
) -> list[dict[str, Any]]:
    """Time ``work`` under every variant in turn, ``runs`` times after one uncounted ``warm_up`` each. A row of numbers per variant.

    Every other turn goes backwards: whoever goes first may find the processor cool or the caches cold. memory: a device whose peak is
    taken in one more, uncounted, run of each variant; None takes none. spend: (variant, accelerator) -> seconds, instead of timing
    ``work``. Ratios are the first variant's time over this one's. A peer that does not run, or what cannot be timed so (CommandError), has
    ``not_run``, the reason, and no numbers.
    """
    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    accounts: dict[str, str] = {}
    peaks: dict[str, float] = {}
    not_run: dict[str, str] = {}

    def under(variant: Variant, run: Callable[[Any], Any]) -> Any:
        """What ``run`` makes of the accelerator of ``variant``; None when that is a peer that does not run."""
        try:
            with variant.on(model) as accelerator:
                result = run(accelerator)
        except Exception as error:
            expected = isinstance(error, CommandError) or getattr(variant, "peer", None) is not None
            if not expected or variant is variants[0]:
                raise
            not_run[variant.name] = reason(error)
            print(f"  {label}: {variant.name} not run: {not_run[variant.name]}", flush=True)
            return None
        accounts[variant.name] = "" if accelerator is None else str(accelerator.report())
        return result

    with torch.no_grad():
        for turn in range(runs + 1):
            for variant in variants if turn % 2 == 0 else reversed(variants):
                if variant.name in not_run:
                    continue
                if turn and spend is not None:
                    spent = under(variant, partial(spend, variant))
                else:
                    spent = under(variant, lambda a, turn=turn: timed(partial(work if turn else warm_up, a)))
                if turn and spent is not None:
                    seconds[variant.name].append(spent)
                    print(f"  {label}, turn {turn} of {runs}: {variant.name} {spent:.3g} s", flush=True)
        for variant in variants if memory else ():
            if variant.name not in not_run:
                peak = under(variant, lambda a: peak_bytes(partial(work, a), memory))
                peaks[variant.name] = None if peak is None else peak / MIB
    first = seconds[variants[0].name]
    return [
        {"variant": name, **_numbers(first, [] if name in not_run else times), "peak_mib": peaks.get(name)}
        | {"account": accounts.get(name, ""), "not_run": not_run.get(name)}
        for name, times in seconds.items()
    ]


def reason(error: Exception) -> str:
    """Why a peer does not run."""
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is not installed"
    return str(error) if isinstance(error, CommandError) else in_words(error)


def _numbers(first: list[float], times: list[float]) -> dict[str, Any]:
    if not times:
        return {"seconds": [], **dict.fromkeys(("min", "median", "spread", "ratio_of_min", "ratio_of_median"))}
    return {
        "seconds": times,
        "min": min(times),
        "median": statistics.median(times),
        "spread": max(times) / min(times) - 1,
        "ratio_of_min": min(first) / min(times),
        "ratio_of_median": statistics.median(first) / statistics.median(times),
    }


def peak_bytes(work: Callable[[], Any], device: str) -> int:
    """The most bytes of tensors that ``work`` holds at once, above what was held before it.

    On CUDA as PyTorch's allocator counts. On a processor from the allocations and releases that PyTorch's profiler records: tensors and
    workspaces that go through its allocator, and nothing of what libraries take for themselves.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]" and event["args"]["Device Type"] == 0]
    held = peak = 0
    for event in sorted(changes, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def machine(device: str) -> dict[str, str]:
    """What the numbers were measured on: ``device`` of this machine."""
    return {
        "date": datetime.date.today().isoformat(),
        "device": name_of(device),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
