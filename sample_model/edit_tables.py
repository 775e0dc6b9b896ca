"""What an evaluation of prompt edits comes to: shares, means and paired differences with 95 % intervals, as data and as tables."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise
from typing import Any

from lib_accel.images.metrics import paired_interval

KINDS = ("shape", "colour", "texture", "background")
WEIGHTS = (-4.0, -2.0, 0.0, 1.0, 2.0, 4.0)
SCHEDULERS = ("EulerDiscreteScheduler", "DDIMScheduler")


def mean_interval(values: list[float]) -> tuple[float, float, float]:
    """Mean with its 95 % interval (normal): mean, low, high."""
    mean = statistics.fmean(values)
    half = 1.959964 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return mean, mean - half, mean + half


def summarise(all_records: list[dict], weights: list[dict[str, list[float]]], blends: list[dict]) -> dict[str, Any]:
    """By kind: shares and means with control and without, and their paired differences (difference, low, high).

    all_records, weights, blends: as `evaluate_edits.Evaluation` keeps them.
    """
    out: dict[str, Any] = {"edits": {}, "weights": {}, "blend": {}}
    for kind in KINDS:
        held, free = ([r for r in all_records if r["kind"] == kind and r["control"] == control] for control in ("held", "free"))
        entry: dict[str, Any] = {"of": len(held)}
        for name in ("right", "ssim", "moved"):
            entry[name] = {"held": statistics.fmean(r[name] for r in held), "free": statistics.fmean(r[name] for r in free)}
            pairs = [(f[name], h[name]) for f, h in zip(free, held)]
            change = paired_interval(*zip(*pairs)) if name == "right" else mean_interval([h - f for f, h in pairs])
            entry[name]["difference"] = list(change)
        out["edits"][kind] = entry
    for name in weights[0] if weights else ():
        shares = [found[name] for found in weights]
        steps = [after - before for row in shares for before, after in pairwise(row)]
        out["weights"][name] = {
            "means": {f"{weight:g}": list(mean_interval([row[place] for row in shares])) for place, weight in enumerate(WEIGHTS)},
            # From each weight to the next, on the same source.
            "changes": [list(mean_interval([row[place + 1] - row[place] for row in shares])) for place in range(len(WEIGHTS) - 1)],
            "steps that do not fall": sum(step >= 0 for step in steps) / len(steps),
        }
    for scheduler in SCHEDULERS:
        found = [blend for blend in blends if blend["scheduler"] == scheduler]
        if found:
            out["blend"][scheduler] = {
                "of": len(found),
                "mask": statistics.fmean(blend["mask"] for blend in found),
                "latents_outside": max(blend["latents_outside"] for blend in found),
                "pixels_outside": max(blend["pixels_outside"] for blend in found),
                "right": statistics.fmean(blend["right"] for blend in found),
            }
    return out


def print_summary(summary: dict[str, Any]) -> None:
    """The tables of README."""
    print(
        "| edit | of | attribute right, held / free (difference) | SSIM of the rest, held / free (difference) | object moved, held / free |"
    )
    print("| --- | --- | --- | --- | --- |")
    for kind, entry in summary["edits"].items():
        right, ssim, moved = entry["right"], entry["ssim"], entry["moved"]
        print(
            f"| {kind} | {entry['of']} | {right['held']:.0%} / {right['free']:.0%} ({_interval(right['difference'], '+.0%')}) "
            f"| {ssim['held']:.3f} / {ssim['free']:.3f} ({_interval(ssim['difference'], '+.3f')}) "
            f"| {moved['held']:.3f} / {moved['free']:.3f} ({_interval(moved['difference'], '+.3f')}) |"
        )
    for name, entry in summary["weights"].items():
        means = ", ".join(f"{weight}: {mean[0]:.3f}" for weight, mean in entry["means"].items())
        changes = ", ".join(_interval(change, "+.3f") for change in entry["changes"])
        print(f"{name} by weight: {means}; changes {changes}; {entry['steps that do not fall']:.0%} of the steps do not fall")
    for scheduler, entry in summary["blend"].items():
        print(
            f"{scheduler}, {entry['of']} blends from the first step: mask {entry['mask']:.0%}, shape right {entry['right']:.0%}, "
            f"outside it latents within {entry['latents_outside']:.2g}, pixels within {entry['pixels_outside']}/255"
        )


def _interval(values: list[float], form: str) -> str:
    mean, low, high = (format(value, form) for value in values)
    return f"{mean} [{low}, {high}]"
