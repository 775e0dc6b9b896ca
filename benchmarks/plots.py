"""Pictures from results: `python benchmarks/plots.py time results/sd15-cpu-tokens.json --out time.png`, `ratio`, `pareto`.

time: seconds over resolution. ratio: how many times as fast as plain, over resolution. pareto: speed against fidelity, from the JSON of
`python -m lib_accel quality`; the line joins what nothing else beats in both. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Points = dict[str, list[tuple[float, float]]]
MARKERS = "osD^vPX*<>"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw results of `python -m lib_accel bench` and `quality`.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("results", type=Path, nargs="+", help="JSON files")
    parser.add_argument("--out", type=Path, required=True, help="PNG or SVG file")
    args = parser.parse_args(argv)
    why = draw(args.kind, args.results, args.out)
    if why:
        print(f"plots: {why}", file=sys.stderr)
    return 2 if why else 0


def draw(kind: str, paths: Sequence[Path], out: Path) -> str | None:
    """Draw the picture ``kind`` from the results at ``paths`` that are there. None, or why there is none."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
    if not results:
        return "there is no result to draw"
    try:
        import matplotlib
    except ModuleNotFoundError:
        return "matplotlib is not installed"
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    try:
        KINDS[kind](axes, results)
        axes.grid(alpha=0.3)
        figure.savefig(out, dpi=110)
    finally:
        plt.close(figure)
    return None


def lines_of(results: Sequence[dict[str, Any]], value: str) -> Points:
    """``value`` of every bench row that ran over its size in pixels, by variant; shapes, batches and dtypes are named where they differ."""
    rows = [(result["what"].split(" ")[0], row) for result in results for row in result["rows"] if not row.get("not_run")]
    whats, batches, dtypes = ({what for what, _ in rows}, {row["batch"] for _, row in rows}, {row["dtype"] for _, row in rows})
    lines: Points = {}
    for what, row in rows:
        name = [what] if len(whats) > 1 else []
        name += [row["variant"]]
        name += [f"batch {row['batch']}"] if len(batches) > 1 else []
        name += [row["dtype"]] if len(dtypes) > 1 else []
        lines.setdefault(", ".join(name), []).append((row["size"], row[value]))
    return {name: sorted(points) for name, points in lines.items()}


def pareto_front(points: Points) -> list[tuple[float, float]]:
    """The points (one per name) that no other is at least as good as in both and better in one; higher is better. By the first number."""
    every = [points[name][0] for name in points]

    def is_beaten(point: tuple[float, float]) -> bool:
        return any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in every)

    return sorted({point for point in every if not is_beaten(point)})


def _time(axes: Any, results: Sequence[dict[str, Any]]) -> None:
    _lines(axes, results, lines_of(results, "min"))
    axes.set_yscale("log")
    axes.set_ylabel(f"seconds of {_of(results)}")


def _ratio(axes: Any, results: Sequence[dict[str, Any]]) -> None:
    lines = lines_of(results, "ratio_of_min")
    _lines(axes, results, {name: points for name, points in lines.items() if any(ratio != 1 for _, ratio in points)})
    axes.axhline(1, color="black", linewidth=1)
    axes.set_ylabel(f"times as fast as plain, {_of(results)}")


def _lines(axes: Any, results: Sequence[dict[str, Any]], lines: Points) -> None:
    for index, (name, points) in enumerate(lines.items()):
        axes.plot(*zip(*points), marker=MARKERS[index % len(MARKERS)], label=name)
    axes.set_xticks(sorted({x for points in lines.values() for x, _ in points}))
    axes.set_xlabel("pixels a side")
    axes.set_title(machine_of(results[0]), fontsize=9)
    axes.legend(fontsize=8)


def _pareto(axes: Any, results: Sequence[dict[str, Any]]) -> None:
    sizes: dict[str, Points] = {}
    for result in results:
        for size, rows in result["sizes"].items():
            sizes.setdefault(size, {}).update({row["name"]: [(row["ratio"], row["ssim"])] for row in rows if not row.get("not_run")})
    for size, points in sizes.items():
        for index, (name, [point]) in enumerate(points.items()):
            # After ten the colours come again, with other markers.
            marker = MARKERS[(index + index // 10) % len(MARKERS)]
            axes.plot(*point, marker, color=f"C{index % 10}", label=f"{name}, {size} px" if len(sizes) > 1 else name)
        axes.step(*zip(*pareto_front(points)), where="pre", color="grey", linewidth=1, linestyle="--")
    axes.set_xlabel("times as fast as plain, whole generation")
    axes.set_ylabel("SSIM to the plain picture of the same seed")
    axes.set_title(f"{len(results[0]['prompts'])} pictures, {machine_of(results[0])}", fontsize=9)
    axes.margins(0.12)
    # Names beside points would cover each other.
    axes.figure.legend(loc="outside lower center", fontsize=7, ncols=2)


def _of(results: Sequence[dict[str, Any]]) -> str:
    settings = results[0]["settings"]
    return f"a generation of {settings['steps']} steps" if settings.get("whole") == "True" else "one U-Net call"


def machine_of(result: dict[str, Any]) -> str:
    """Device, threads, torch and date of a result."""
    m, settings = result["machine"], result.get("settings", {})
    threads = f"{m['threads']} thread{'s' * (str(m['threads']) != '1')}"
    workers, processes = settings.get("workers", 1), settings.get("processes", {}).get("count", 1)
    # Of version 0.1.0, whose processes shared the threads.
    if workers > 1:
        threads += f" shared by {workers} processes"
    if processes > 1:
        threads += f" in each of {processes} processes"
    return f"{m['device']}, {threads}, torch {m['torch']}, {m['date']}"


KINDS = {"time": _time, "ratio": _ratio, "pareto": _pareto}


if __name__ == "__main__":
    sys.exit(main())
