"""Fit time over tokens from `bench` results: `python benchmarks/fit_tokens.py results/*.json --plot results/tokens.png`.

A U-Net call takes about a + b*n + c*n*n seconds for n tokens at the full latent resolution: convolutions and projections are linear in
n, self-attention is quadratic. What a method saves shows in c.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import plots


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fit time over tokens from the JSON that `python -m lib_accel bench` writes.")
    parser.add_argument("results", type=Path, nargs="+", help="JSON files of one machine and one shape, together at least three sizes")
    parser.add_argument("--plot", type=Path, help="also draw the points and curves into this PNG")
    args = parser.parse_args(argv)
    times = read(args.results)
    few = [variant for variant, points in times.items() if len(points) < 3]
    if few:
        parser.error(f"{few[0]} has {len(times[few[0]])} sizes; a curve takes at least three.")
    fits = {variant: fit(points) for variant, points in times.items()}
    print("| variant | a, s | b, ms per 1000 tokens | c, ms per million pairs of tokens | largest error |")
    print("| --- | --- | --- | --- | --- |")
    for variant, (a, b, c, error) in fits.items():
        print(f"| {variant} | {a:.2f} | {b * 1e6:.0f} | {c * 1e9:.2f} | {error:.0%} |")
    if args.plot:
        plot(times, fits, args.plot)


def read(paths: list[Path]) -> dict[str, dict[int, float]]:
    """variant -> {tokens at full latent resolution: least seconds}, of those that ran; batches and dtypes apart."""
    lines = plots.lines_of([json.loads(path.read_text(encoding="utf-8")) for path in paths], "min")
    return {name: {(size // 8) ** 2: least for size, least in points} for name, points in lines.items()}


def fit(points: dict[int, float]) -> tuple[float, float, float, float]:
    """(a, b, c) of least squares in relative error, and the largest relative error."""
    n, t = np.array(sorted(points)), np.array([points[k] for k in sorted(points)])
    terms = np.stack([np.ones_like(n, dtype=float), n, n.astype(float) ** 2], 1)
    solution = np.linalg.lstsq(terms / t[:, None], np.ones_like(t), rcond=None)[0]
    return (*map(float, solution), float(np.abs(terms @ solution / t - 1).max()))


def plot(times: dict[str, dict[int, float]], fits: dict[str, tuple], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for variant, points in times.items():
        n = np.linspace(min(points), max(points), 200)
        a, b, c, _ = fits[variant]
        (line,) = axes.plot(n, a + b * n + c * n * n, label=variant)
        axes.plot(list(points), list(points.values()), "o", color=line.get_color())
    axes.set_xlabel("tokens at full latent resolution (64x64 latents: 4096)")
    axes.set_ylabel("seconds of one U-Net call")
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
