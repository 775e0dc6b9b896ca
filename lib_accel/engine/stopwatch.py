"""Time spent in U-Net calls, without making a GPU wait."""

from __future__ import annotations

import time
from collections import deque

import torch

# Spans of a GPU that may wait to be read. Nobody may ever ask for the sum, and events cost memory on both sides.
MOST_WAITING = 256


class Stopwatch:
    """Sums the spans between `start` and `stop`. On CUDA by events, which are read when they are over and many, or the sum is asked for."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._begin: float | torch.cuda.Event | None = None
        self._device: torch.device | None = None
        self._spans: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def start(self, device: torch.device) -> None:
        if device.type == "cuda":
            self._device, self._begin = device, torch.cuda.Event(enable_timing=True)
            self._begin.record(torch.cuda.current_stream(device))
        else:
            self._begin = time.perf_counter()

    def stop(self) -> None:
        """End the span. Does nothing when none is open."""
        begin, self._begin = self._begin, None
        if isinstance(begin, float):
            self._seconds += time.perf_counter() - begin
        elif begin is not None:
            end = torch.cuda.Event(enable_timing=True)
            # Not the current device's stream: the model may be on another GPU.
            end.record(torch.cuda.current_stream(self._device))
            self._spans.append((begin, end))
            while len(self._spans) > MOST_WAITING and self._spans[0][1].query():
                self._read(self._spans.popleft())

    def seconds(self) -> float:
        """Sum of all spans so far. Waits for a GPU's last span."""
        while self._spans:
            self._read(self._spans.popleft())
        return self._seconds

    def _read(self, span: tuple[torch.cuda.Event, torch.cuda.Event]) -> None:
        begin, end = span
        end.synchronize()
        self._seconds += begin.elapsed_time(end) / 1000
