"""What `quality` shows of its numbers: the Markdown table, and the grid of pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from .taking_turns import TimedPicture

SHOWN = 5  # pictures per variant in the grid


def table(rows: list[dict[str, Any]], model: str = "U-Net") -> str:
    """The rows as a Markdown table. model: what was called, in words."""
    weighed = any("work" in row for row in rows)
    columns = [
        "variant",
        f"{model} calls",
        *(["work"] if weighed else []),
        "PSNR dB (mean / median / worst)",
        "SSIM",
        "luminance",
        "saturation",
        "detail",
        "FD",
    ]
    columns += ["shows the prompt", "change (95 %)", "s", "ratio"]
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for row in rows:
        if row.get("not_run"):
            why = row["not_run"].replace("|", "/")
            lines.append(f"| {row['name']} | not run: {why}" + " |" * (len(columns) - 1))
            continue
        shown = f"{row['shown']:.0%}" if "shown" in row else "-"
        plain = row["name"] == "plain"
        change = "-"
        if "shown" in row and not plain:
            change = "{:+.1%} ({:+.1%} to {:+.1%})".format(row["shown_change"], *row["shown_interval"])
        fd = "-" if row["fd"] is None or plain else f"{row['fd']:.4f}"
        psnr, ssim = ("same", "1") if plain else (_shown_spread(row, "psnr", 1), _shown_spread(row, "ssim", 3))
        cells = [row["name"], _shown_calls(row), *([f"{row['work']:.0%}" if "work" in row else "-"] if weighed else []), psnr, ssim]
        cells += [f"{row['luminance_shift']:+.2f}", f"{row['saturation_shift']:+.2f}"]
        cells += [f"{row['detail']:.2f}", fd, shown, change, f"{row['seconds']:.2f}", f"{row['ratio']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown_calls(row: dict[str, Any]) -> str:
    """Mean, fewest and most where pictures differ; how many ran their shallow stages only, or in part; behind how many these ran again."""
    if "calls" not in row:
        return "-"
    fewest, most = row["calls_range"]
    whole = f"{fewest}" if fewest == most else f"{row['calls']:.1f} ({fewest} to {most})"
    beside = [(row.get("calls_shallow"), "shallow"), (row.get("calls_in_part"), "in part"), (row.get("calls_measured"), "measured")]
    return " + ".join([whole, *(f"{count:.1f} {what}" for count, what in beside if count)])


def _shown_spread(row: dict[str, Any], name: str, digits: int) -> str:
    """Mean / median / worst."""
    return " / ".join(f"{row[key]:.{digits}f}" for key in (name, f"{name}_median", f"{name}_worst") if key in row)


def grid(drawings: dict[str, list[TimedPicture]], rows: list[dict[str, Any]]) -> Image.Image:
    """A column per variant with its first pictures one below the other, labelled."""
    from ..images.grid import side_by_side

    cells = []
    for row in rows:
        column = np.concatenate([drawn.picture for drawn in drawings[row["name"]][:SHOWN]], axis=0)
        words = [row["name"]] if row["name"] == "plain" else [row["name"], f"PSNR {row['psnr']:.1f} dB, SSIM {row['ssim']:.3f}"]
        cells.append((Image.fromarray(column), [*words, f"{row['seconds']:.2f} s, {row['ratio']:.2f}x"]))
    return side_by_side(cells, ["The same seeds in every column. Left: plain."])
