"""Run a suite of measurements: `python benchmarks/run_suite.py readme sizes`, or `--list`, `--dry-run`, `--rows NAME ...`.

A suite (`suites/NAME.json`) is a list of rows; a row is a command of `python -m lib_accel` and its arguments. Every row writes
`results/ROW.json`; the suite writes `results/NAME.md` with every row's command, table, machine and date, and its pictures. Packages that a
row's peers need are installed into a folder of their own, which that row alone sees. A row that fails says why, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import plots

HERE = Path(__file__).resolve().parent
SUITES, RESULTS, PACKAGES = HERE / "suites", HERE / "results", HERE / ".packages"
GRID_WIDTH = 1200


def main(argv: list[str] | None = None) -> int:
    known = sorted(path.stem for path in SUITES.glob("*.json"))
    parser = argparse.ArgumentParser(description="Run suites of measurements and write their results, tables and pictures.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"among {', '.join(known)}")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="these rows alone (names as --list shows them)")
    parser.add_argument("--list", action="store_true", help="the rows, and about how long they take on two idle cores")
    parser.add_argument("--dry-run", action="store_true", help="the commands, without running them")
    parser.add_argument("--report-only", action="store_true", help="tables and pictures from the results that are there")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the results")
    args = parser.parse_args(argv)
    for name in args.suites:
        if name not in known:
            parser.error(f"SUITE is {name!r}; it must be one of {', '.join(known)}.")
    rows = {row["name"] for name in args.suites or known for row in _suite(name)["rows"]}
    for name in args.rows or ():
        if name not in rows:
            parser.error(f"ROW is {name!r}; --list shows them.")
    failed = 0
    for name in args.suites or (known if args.list else parser.error("which SUITE? --list shows them")):
        failed += run(name, _suite(name), args)
    return 1 if failed else 0


def _suite(name: str) -> dict[str, Any]:
    return json.loads((SUITES / f"{name}.json").read_text(encoding="utf-8"))


def run(name: str, suite: dict[str, Any], args: argparse.Namespace) -> int:
    """Run the rows of a suite that were asked for and write its report. How many failed."""
    rows = [row for row in suite["rows"] if not args.rows or row["name"] in args.rows]
    if args.list or args.dry_run:
        print(f"{name}: {suite['title']}")
        for row in rows:
            print(f"  {row['name']}, {duration(row)}" if args.list else f"  {shown(row)}")
        return 0
    args.results.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    for row in () if args.report_only else rows:
        print(f"\n{row['name']} ({duration(row)})\n  {shown(row)}", flush=True)
        why = run_row(row, args.results)
        if why:
            failures[row["name"]] = why
            print(f"  not run: {why}", flush=True)
    (args.results / f"{name}.md").write_text(report(suite, args.results, failures), encoding="utf-8")
    print(f"\nWrote {args.results / f'{name}.md'}.")
    return len(failures)


def run_row(row: dict[str, Any], results: Path) -> str | None:
    """Run one row in a process of its own. None, or why it did not run."""
    path = [str(HERE.parent)]
    if row.get("needs"):
        folder, why = packages(row["needs"])
        if why:
            return why
        path.insert(0, str(folder))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, *filter(None, [os.environ.get("PYTHONPATH")])])}
    processes = ["torch.distributed.run", "--nproc-per-node", str(row["processes"]), "-m"] if row.get("processes", 1) > 1 else []
    command = [sys.executable, "-m", *processes, "lib_accel", row["command"], *shlex.split(row["arguments"]), *output(row, results)]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    sys.stderr.write(done.stderr)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    if row["command"] == "quality":
        keep_quality(row["name"], results)
    path = results / f"{row['name']}.json"
    path.write_text(json.dumps({"command": shown(row), **json.loads(path.read_text(encoding="utf-8"))}, indent=1) + "\n", encoding="utf-8")
    return None


def keep_quality(name: str, results: Path) -> None:
    """The numbers of a row of `quality`, and its grids made smaller, beside the other results; its folder is not kept in the repository."""
    from PIL import Image

    (results / f"{name}.json").write_text((results / name / "quality.json").read_text(encoding="utf-8"), encoding="utf-8")
    for path in sorted((results / name).glob("grid-*.png")):
        with Image.open(path) as grid:
            grid = grid.convert("RGB")
            grid.thumbnail((GRID_WIDTH, 10 * GRID_WIDTH))
            grid.quantize(256, dither=Image.Dither.NONE).save(results / f"{name}-{path.name}", optimize=True)


def output(row: dict[str, Any], results: Path) -> list[str]:
    """The arguments that say where the row's result goes."""
    return ["--out", str(results / row["name"])] if row["command"] == "quality" else ["--json", str(results / f"{row['name']}.json")]


def packages(needs: list[str]) -> tuple[Path, str | None]:
    """A folder with the packages ``needs`` (without what they need in turn), and why there is none."""
    folder = PACKAGES / "+".join(needs).replace("==", "-")
    if not folder.is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *needs]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return folder, f"{', '.join(needs)} could not be installed: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
    return folder, None


def report(suite: dict[str, Any], results: Path, failures: dict[str, str]) -> str:
    """The suite's results as Markdown."""
    parts = [f"# {suite['title']}"]
    for row in suite["rows"]:
        path = results / f"{row['name']}.json"
        result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and row["name"] not in failures else {}
        ran = result.get("command", shown(row))
        parts.append(f"## {row['name']}\n\n```\n{ran}\n```")
        if row["name"] in failures:
            parts.append(f"Not run: {failures[row['name']]}.")
        elif not result:
            parts.append("Not run yet.")
        else:
            if ran != shown(row):
                parts.append(f"The suite's row is now: `{shown(row)}`.")
            parts.append(table_of(row, result))
            parts += [f"![The first pictures of {row['name']}]({grid.name})" for grid in sorted(results.glob(f"{row['name']}-grid-*.png"))]
    for plot in suite.get("plots", ()):
        why = plots.draw(plot["kind"], [results / f"{name}.json" for name in plot["rows"]], results / plot["file"])
        parts.append(f"No picture {plot['file']}: {why}." if why else f"![{plot['kind']}]({plot['file']})")
    return "\n\n".join(parts) + "\n"


def table_of(row: dict[str, Any], result: dict[str, Any]) -> str:
    """The table of a result, with the machine and the date."""
    sys.path.insert(0, str(HERE.parent))
    from lib_accel.cli import bench, quality_table

    if row["command"] == "bench":
        return bench.table(result)
    lines = [f"{result['model']}; {plots.machine_of(result)}"]
    lines += [f"{size}x{size}, {len(result['prompts'])} pictures\n\n{quality_table.table(rows)}" for size, rows in result["sizes"].items()]
    return "\n\n".join(lines)


def shown(row: dict[str, Any]) -> str:
    """The row's command as a reader would type it."""
    count = row.get("processes", 1)
    launcher = "python" if count == 1 else f"torchrun --nproc-per-node {count}"
    return f"{launcher} -m lib_accel {row['command']} {row['arguments']}"


def duration(row: dict[str, Any]) -> str:
    return f"about {row['minutes']} min" if row.get("minutes") else "not timed yet"


if __name__ == "__main__":
    sys.exit(main())
