"""The speed table of docs/benchmarks.md, from the results of the suites `readme` and `presets`. `--write` puts it into the page.

Ratios are those of the least times; what was composed and what was not run is marked. Presets are whole pictures: the calls that ran on the
sample model (the suite `quality`), with the times of such calls.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from pricing import speed, timed_costs

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- Printed by benchmarks/readme_table.py -->", "<!-- End of what it printed -->"
COLUMNS = (512, 1024)
COMMAND = "python benchmarks/run_suite.py readme && python benchmarks/run_suite.py presets && python benchmarks/readme_table.py"
CALL, WHOLE = "", "-whole"
PICTURES, CALLS = "sample-peers.json", "-calls"
PRESETS = ("quality", "balanced", "fast", "draft")
# (label, result, variant); a result's name is sd15-cpu-SIZE and this.
ROWS = (
    ("`AgentAttention(ratio=0.4, agent_ratio=0.95, sx=4, sy=4)`", CALL, "agent:ratio=0.4,agent_ratio=0.95,sx=4,sy=4"),
    ("`TokenMerging(ratio=0.5)`", CALL, "merging:ratio=0.5"),
    ("`TokenDownsampling(factor=2)`", CALL, "downsampling:factor=2"),
    ("limit: no self-attention at all", WHOLE, "no-self-attention"),
    ("limit: half the rows", WHOLE, "half-the-rows"),
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The speed table of docs/benchmarks.md, from the results of two suites.")
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
    results = {(size, kind): _read(folder / f"sd15-cpu-{size}{kind}.json") for size in COLUMNS for kind in (CALL, WHOLE, CALLS)}
    there = [result for result in results.values() if result]
    if not there:
        raise SystemExit(f"readme_table: no result in {folder}; run: {COMMAND}")
    lines = [f"| | {' | '.join(f'{size} px' for size in COLUMNS)} |", f"| --- |{' --- |' * len(COLUMNS)}"]
    for label, kind, variant in ROWS:
        cells = [_cell(results[size, kind], variant) for size in COLUMNS]
        if any(cell != "-" for cell in cells):
            lines.append(f"| {label} | {' | '.join(cells)} |")
    lines += _presets(folder)
    machines = dict.fromkeys(
        f"{m['device']}, {m['threads']} threads, float32, torch {m['torch']}, {m['date']}" for m in (result["machine"] for result in there)
    )
    notes = ["* composed of timed steps of each kind"] if any("x*" in line for line in lines) else []
    return "\n".join([*lines, "", "; ".join([*machines, *notes]) + "."])


def _presets(folder: Path) -> list[str]:
    """Lines for the presets; none without results."""
    pictures = _read(folder / PICTURES)
    paths = [path for size in COLUMNS if (path := folder / f"sd15-cpu-{size}{CALLS}.json").is_file()]
    if pictures is None or not paths:
        return []
    (rows,) = pictures["sizes"].values()
    told, costs = pictures["settings"], {each.size: each for path in paths for each in timed_costs(path)}
    lines = []
    for row in rows:
        if row["name"] in PRESETS:
            speeds = [speed(row, told["steps"], costs[size]) if size in costs else None for size in COLUMNS]
            what = f"{row['name'].capitalize()}, {told['steps']} steps of {told['sampler']}, a whole picture"
            lines.append(f"| {what} | {' | '.join('-' if each is None else f'{each:.2f}x' for each in speeds)} |")
    return lines


def replaced(page: str, text: str) -> str:
    """``page`` with ``text`` between the marks. ValueError without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/benchmarks.md lacks {BEGIN} or {END}.")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def _cell(result: dict[str, Any] | None, variant: str) -> str:
    row = next((row for row in (result or {"rows": []})["rows"] if row["variant"] == variant), None)
    if row is None:
        return "-"
    if row.get("not_run"):
        return "not run"
    return f"{row['ratio_of_min']:.2f}x" + ("*" if result["settings"].get("compose") == "True" else "")


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
