"""Time of matching one level's tokens, global and local: `python benchmarks/matching.py`."""

from __future__ import annotations

import time

import torch

from lib_accel.ops.matching import match_tokens

ROWS, SIDE, CHANNELS = 2, 128, 320  # SD1.5's finest level at 1024x1024, one guided picture


def main() -> None:
    x = torch.randn(ROWS, SIDE * SIDE, CHANNELS)
    print(f"{SIDE}x{SIDE} tokens of {CHANNELS} channels, {ROWS} rows, {torch.get_num_threads()} threads, least of 5")
    for cell in (2, 4):
        for radius in (None, 1):
            with torch.no_grad():
                least = min(_seconds(x, cell, radius) for _ in range(5))
            print(f"cells {cell}x{cell}, {'global' if radius is None else f'local, radius {radius}'}: {least:.3f} s")


def _seconds(x: torch.Tensor, cell: int, radius: int | None) -> float:
    begin = time.perf_counter()
    match_tokens(x, SIDE, SIDE, cell, cell, radius=radius)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
