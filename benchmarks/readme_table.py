"""The speed table of docs/benchmarks.md, from the results of the suite `readme`. `--write` puts it into the page.

Ratios are those of the least times; what was composed and what was not run is marked.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- Printed by benchmarks/readme_table.py -->", "<!-- End of what it printed -->"
COLUMNS = (512, 1024)
COMMAND = "python benchmarks/run_suite.py readme && python benchmarks/readme_table.py"
CALL, WHOLE = "", "-whole"
# The presets of version 0.1.0; those of today forecast steps, which cannot be timed one by one.
QUALITY = "downsampling:factor=2,window=0.2-1"
BALANCED = "downsampling:factor=2+merging:ratio=0.25,matching=local+guidance:when=after,after=0.4,reuse=true,every=3"
FAST = "downsampling:factor=2,deeper_factor=2+merging:ratio=0.5,matching=local+guidance:when=after,after=0.2,reuse=true,every=7"
# What results from the time of 0.1.0 call them.
NAMES = {QUALITY: "quality", BALANCED: "balanced", FAST: "fast"}
# (label, result, variant); a result's name is sd15-cpu-SIZE and this.
ROWS = (
    ("`AgentAttention(ratio=0.4, agent_ratio=0.95, sx=4, sy=4)`", CALL, "agent:ratio=0.4,agent_ratio=0.95,sx=4,sy=4"),
    ("`TokenMerging(ratio=0.5)`", CALL, "merging:ratio=0.5"),
    ("`TokenDownsampling(factor=2)`", CALL, "downsampling:factor=2"),
    ("Quality of 0.1.0, 25 steps, guidance 7", WHOLE, QUALITY),
    ("Balanced of 0.1.0, 25 steps, guidance 7", WHOLE, BALANCED),
    ("Fast of 0.1.0, 25 steps, guidance 7", WHOLE, FAST),
    ("limit: no self-attention at all", WHOLE, "no-self-attention"),
    ("limit: half the rows", WHOLE, "half-the-rows"),
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The speed table of docs/benchmarks.md from the results of the suite `readme`.")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--write", action="store_true", help="put it into the page in place of the one that is there")
    args = parser.parse_args(argv)
    text = table(args.results)
    print(text)
    if args.write:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    return 0


def table(folder: Path) -> str:
    """The table, with the machine and the date below it."""
    results = {(size, kind): _read(folder / f"sd15-cpu-{size}{kind}.json") for size in COLUMNS for kind in (CALL, WHOLE)}
    there = [result for result in results.values() if result]
    if not there:
        raise SystemExit(f"readme_table: no result in {folder}; run: {COMMAND}")
    lines = [f"| | {' | '.join(f'{size} px' for size in COLUMNS)} |", f"| --- |{' --- |' * len(COLUMNS)}"]
    for label, kind, variant in ROWS:
        cells = [_cell(results[size, kind], variant) for size in COLUMNS]
        if any(cell != "-" for cell in cells):
            lines.append(f"| {label} | {' | '.join(cells)} |")
    machines = dict.fromkeys(
        f"{m['device']}, {m['threads']} threads, float32, torch {m['torch']}, {m['date']}" for m in (result["machine"] for result in there)
    )
    notes = ["* composed of timed steps of each kind"] if any("*" in line for line in lines) else []
    return "\n".join([*lines, "", "; ".join([*machines, *notes]) + "."])


def replaced(page: str, text: str) -> str:
    """``page`` with ``text`` between the marks. ValueError without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/benchmarks.md lacks {BEGIN} or {END}.")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def _cell(result: dict[str, Any] | None, variant: str) -> str:
    row = next((row for row in (result or {"rows": []})["rows"] if row["variant"] in (variant, NAMES.get(variant))), None)
    if row is None:
        return "-"
    if row.get("not_run"):
        return "not run"
    return f"{row['ratio_of_min']:.2f}x" + ("*" if result["settings"].get("compose") == "True" else "")


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
