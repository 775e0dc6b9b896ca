"""Which settings a preset should have: `python benchmarks/search_presets.py --sampler "DPM++ 2M Karras" --out FOLDER`.

Draws with the sample model what each combination of token methods and step methods makes of the same pictures, and composes how many times
as fast each would be on the shapes that people use: the calls and rows that really ran, with the multiply-adds of a call on that shape, or
with its time (``--calls``). Prints all of them against fewer steps, the front marked. The pictures (seeds from 5000) are none that the
benchmarks report.

`--report-only` prices any quality.json, whatever it holds; also one that `run_suite.py` kept as FOLDER.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from pricing import Costs, Counted, speed, timed_costs

from lib_accel.cli.main import main as accel

TOKEN_METHODS = (
    "",
    "downsampling:factor=2,window=0.2-1",
    "downsampling:factor=2+merging:ratio=0.25,matching=local",
    "downsampling:factor=2,deeper_factor=2+merging:ratio=0.5,matching=local",
)
STEP_METHODS = (
    "",
    "forecast:level=middle",
    "forecast:level=fast",
    "forecast:level=fastest",
    "forecast:level=fastest+guidance:when=after,after=0.3,reuse=true,every=7",
    "forecast:level=draft+guidance:when=after,after=0.2,reuse=true,every=12",
)
FEWER = (0.8, 0.68, 0.52, 0.4)
# (shape, side in pixels) for which speeds are composed.
TARGETS = (("sd1", 512), ("sd1", 1024), ("sd2", 768), ("sdxl", 1024))
SEED = 5000


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Speed and distance of combinations of methods, for choosing presets.")
    parser.add_argument("--sampler", help="as for quality (default: the model's own)")
    parser.add_argument("--tokens", nargs="*", default=TOKEN_METHODS, metavar="VARIANT", help='token methods to combine; "" for none')
    parser.add_argument("--methods", nargs="*", default=STEP_METHODS, metavar="VARIANT", help='step methods to combine; "" for none')
    parser.add_argument("--fewer", nargs="*", type=float, default=FEWER, metavar="PART", help="parts of the steps to compare with")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=7.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--calls",
        nargs="*",
        type=Path,
        default=[],
        metavar="JSON",
        help="results of bench on 2 rows and on 1: speeds of these, too",
    )
    parser.add_argument("--report-only", action="store_true", help="the table from the quality.json that is there")
    args = parser.parse_args(argv)
    if not args.report_only:
        pairs = ("+".join(filter(None, pair)) for pair in ((t, s) for s in args.methods for t in args.tokens))
        variants = [*filter(None, pairs), *(f"fewer:part={part:g}" for part in args.fewer)]
        words = ["quality", "--preset", "--method", "--auto", "off", "--seed", SEED, "--out", args.out, "--count", args.count]
        words += ["--size", args.size, "--steps", args.steps, "--guidance", args.guidance, "--variants", *variants]
        failed = accel([*map(str, words), *(["--sampler", args.sampler] if args.sampler else [])])
        if failed:
            return failed
    found = next((path for path in (args.out / "quality.json", args.out.with_name(f"{args.out.name}.json")) if path.is_file()), None)
    if found is None:
        parser.error(f"--out is {str(args.out)!r}; --report-only needs a folder of quality, with a file quality.json.")
    result = json.loads(found.read_text(encoding="utf-8"))
    costs = [*(Counted(*target) for target in TARGETS), *(each for path in args.calls for each in timed_costs(path))]
    for size, rows in result["sizes"].items():
        head = [f"Pictures of {size} px", ""] if len(result["sizes"]) > 1 else []
        print("\n".join([*head, *table(rows, result["settings"]["steps"], costs)]))
    return 0


def table(rows: list[dict[str, Any]], steps: int, costs: Sequence[Costs]) -> list[str]:
    """Lines of Markdown: composed speeds and distances, the nearest at each speed (by the first of ``costs``) marked."""
    speeds = {row["name"]: [speed(row, steps, each) for each in costs] for row in rows if "calls" in row}
    names = [each.name for each in costs]
    lines = [f"| variant | {' | '.join(names)} | calls | PSNR mean / worst | |", "|" + " --- |" * (len(names) + 4)]
    ranked = sorted((row for row in rows if row["name"] in speeds and row["name"] != "plain"), key=lambda row: speeds[row["name"]][0] or 0)
    for row in ranked:
        own = speeds[row["name"]]
        nearer = [speeds[other["name"]][0] or 0 for other in ranked if other["psnr"] > row["psnr"]]
        beaten = own[0] is None or max(nearer, default=0) >= own[0]
        distance = f"{row['psnr']:.1f} / {row['psnr_worst']:.1f}"
        speeds_of_it = ("-" if times is None else f"{times:.2f}" for times in own)
        cells = [row["name"], *speeds_of_it, f"{row['calls']:.1f}", distance]
        lines.append(f"| {' | '.join(cells)} | {'' if beaten else 'front'} |")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
