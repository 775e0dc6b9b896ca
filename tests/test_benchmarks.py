"""Suites, their runner, the pictures and the speed table of docs/benchmarks.md. Nothing is timed here."""

import argparse
import json
import math
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from lib_accel.cli import bench, quality, quality_table
from lib_accel.cli.variants import parse_variant

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))
import plots  # noqa: E402
import profile_call  # noqa: E402
import readme_table  # noqa: E402
import run_suite  # noqa: E402

SUITES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((FOLDER / "suites").glob("*.json"))}
ROWS = {row["name"]: row for suite in SUITES.values() for row in suite["rows"]}
MACHINE = {"device": "a CPU", "threads": "2", "torch": "2", "date": "2026-01-01"}


def result(rows, **settings):
    given = {"steps": "25", "guidance": "7.0", "whole": "False", "compose": "False"} | settings
    return {"what": "sd15 (ldm), random weights", "settings": given, "machine": MACHINE, "rows": rows}


def timed(variant, ratio, size=512, **more):
    numbers = {
        "seconds": [1 / ratio],
        "min": 1 / ratio,
        "median": 1 / ratio,
        "spread": 0.0,
        "ratio_of_min": ratio,
        "ratio_of_median": ratio,
    }
    row = {"size": size, "batch": 2, "dtype": "float32", "variant": variant, **numbers, "peak_mib": None, "not_run": None}
    return row | more


def quality_result(points):
    others = {"psnr": 40.0, "luminance_shift": 0.0, "saturation_shift": 0.0, "detail": 1.0, "fd": None, "seconds": 1.0}
    rows = [{"name": name, "ratio": ratio, "ssim": ssim} | others for name, (ratio, ssim) in points.items()]
    return {"machine": MACHINE, "prompts": ["a"], "model": "m", "sizes": {"512": rows}}


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_every_suite_is_a_command_that_is_accepted(name):
    row = ROWS[name]
    parser = argparse.ArgumentParser(exit_on_error=False)
    commands = {"bench": bench, "quality": quality}
    commands[row["command"]].add_arguments(parser)
    args = parser.parse_args(shlex.split(row["arguments"]))
    if row["command"] == "bench":
        bench._check(args)
        assert args.variants[0] == "plain"
        for variant in args.variants:
            parse_variant(variant)
    else:
        quality._variants(args)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_brings_the_packages_of_its_peers(name):
    """What a peer imports is not there on a reader's machine."""
    packages = {
        "tomesd": {"tomesd"},
        "published-tgate": {"tgate", "DeepCache"},
        "published-tgate-self": {"tgate", "DeepCache"},
        "published-deepcache": {"DeepCache"},
    }
    wanted = set().union(*(packages.get(word, ()) for word in shlex.split(ROWS[name]["arguments"])))
    assert {package.partition("==")[0] for package in ROWS[name].get("needs", ())} == wanted


def test_names_of_rows_are_unique_and_pictures_name_rows():
    assert len(ROWS) == sum(len(suite["rows"]) for suite in SUITES.values())
    for suite in SUITES.values():
        names = {row["name"] for row in suite["rows"]}
        assert all(plot["kind"] in plots.KINDS and set(plot["rows"]) <= names for plot in suite.get("plots", ()))


def test_the_runner_runs_rows_and_reports_those_that_fail(tmp_path, monkeypatch, capsys):
    rows = [
        {"name": "tiny", "minutes": 1, "command": "bench", "arguments": "--arch sd15 --size 63"},
        {"name": "good", "minutes": 1, "command": "bench", "arguments": "--variants plain"},
    ]
    (tmp_path / "it.json").write_text(json.dumps({"title": "It", "rows": rows}))
    monkeypatch.setattr(run_suite, "SUITES", tmp_path)
    ran = run_suite.subprocess.run

    def run(command, **given):
        if "--variants" in command:
            Path(command[command.index("--json") + 1]).write_text(json.dumps(result([timed("plain", 1)])))
            return run_suite.subprocess.CompletedProcess(command, 0, stderr="")
        return ran(command, **given)

    monkeypatch.setattr(run_suite.subprocess, "run", run)
    assert run_suite.main(["it", "--results", str(tmp_path / "results")]) == 1
    report = (tmp_path / "results" / "it.md").read_text()
    assert "Not run: bench: --size is 63; it must be a multiple of 8 from 64 on." in report
    assert "a CPU, 2 threads, torch 2, 2026-01-01" in report and "| 512 | 2 | float32 | plain |" in report
    assert "python -m lib_accel bench --variants plain" in report
    assert run_suite.main(["it", "--rows", "good", "--report-only", "--results", str(tmp_path / "results")]) == 0
    capsys.readouterr()
    assert run_suite.main(["it", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("python -m lib_accel bench") == 2
    (tmp_path / "other.json").write_text(json.dumps({"title": "Other", "rows": [rows[0] | {"name": "elsewhere"}]}))
    with pytest.raises(SystemExit):
        run_suite.main(["it", "--rows", "elsewhere", "--results", str(tmp_path / "results")])
    assert "ROW is 'elsewhere'" in capsys.readouterr().err


def test_a_table_has_the_command_that_made_it(tmp_path, monkeypatch, capsys):
    def suite(arguments):
        row = {"name": "row", "minutes": 1, "command": "bench", "arguments": arguments}
        (tmp_path / "it.json").write_text(json.dumps({"title": "It", "rows": [row]}))

    def run(command, **given):
        Path(command[command.index("--json") + 1]).write_text(json.dumps(result([timed("plain", 1)])))
        return run_suite.subprocess.CompletedProcess(command, 0, stderr="")

    monkeypatch.setattr(run_suite, "SUITES", tmp_path)
    monkeypatch.setattr(run_suite.subprocess, "run", run)
    results = tmp_path / "results"
    suite("--runs 1")
    assert run_suite.main(["it", "--results", str(results)]) == 0
    suite("--runs 5")
    assert run_suite.main(["it", "--report-only", "--results", str(results)]) == 0
    report = (results / "it.md").read_text()
    assert "```\npython -m lib_accel bench --runs 1\n```" in report
    assert "The suite's row is now: `python -m lib_accel bench --runs 5`." in report
    with pytest.raises(SystemExit):
        run_suite.main(["it", "--rows", "rwo"])
    assert "ROW is 'rwo'" in capsys.readouterr().err


def test_a_package_that_cannot_be_installed_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(run_suite, "PACKAGES", tmp_path)
    row = {"name": "it", "command": "bench", "arguments": "", "needs": ["no such package ==1"]}
    assert "no such package ==1 could not be installed" in run_suite.run_row(row, tmp_path)


def test_a_row_of_quality_leaves_its_numbers_and_its_grids_made_smaller(tmp_path):
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "quality.json").write_text(json.dumps(quality_result({"plain": (1, 1)})))
    Image.new("RGB", (3000, 1500), "red").save(tmp_path / "it" / "grid-256.png")
    run_suite.keep_quality("it", tmp_path)
    with Image.open(tmp_path / "it-grid-256.png") as grid:
        assert grid.size == (run_suite.GRID_WIDTH, run_suite.GRID_WIDTH // 2)
    row = {"name": "it", "command": "quality", "arguments": ""}
    assert "](it-grid-256.png)" in run_suite.report({"title": "It", "rows": [row]}, tmp_path, {})


def test_the_speed_table(tmp_path):
    rows = [timed("plain", 1), timed("merging:ratio=0.5", 1.5)]
    (tmp_path / "sd15-cpu-512.json").write_text(json.dumps(result(rows)))
    whole = [timed("plain", 1), timed("no-self-attention", 2.25), timed("half-the-rows", 2.0, not_run="why")]
    composed = result(whole, whole="True", compose="True")
    (tmp_path / "sd15-cpu-1024-whole.json").write_text(json.dumps(composed))
    text = readme_table.table(tmp_path)
    assert "| `TokenMerging(ratio=0.5)` | 1.50x | - |" in text
    assert "| limit: half the rows | - | not run |" in text
    assert "| limit: no self-attention at all | - | 2.25x* |" in text
    assert text.endswith("a CPU, 2 threads, float32, torch 2, 2026-01-01; * composed of timed steps of each kind.")
    assert "AgentAttention" not in text
    page = f"before\n{readme_table.BEGIN}\nold\n{readme_table.END}\nafter\n"
    replaced = readme_table.replaced(page, "new")
    assert replaced.startswith("before\n") and replaced.endswith("\nafter\n") and "old" not in replaced
    assert readme_table.replaced(replaced, "new") == replaced
    with pytest.raises(ValueError, match=r"docs/benchmarks\.md lacks"):
        readme_table.replaced("nothing", "new")
    with pytest.raises(SystemExit, match="no result in"):
        readme_table.table(tmp_path / "empty")


def test_the_speed_table_has_presets_composed_of_calls_that_ran(tmp_path):
    for size in (512, 1024):
        calls = result([timed("plain", 1, size, batch=rows) for rows in (1, 2)], arch="sd15") | {
            "machine": MACHINE | {"date": "2026-02-02"}
        }
        (tmp_path / f"sd15-cpu-{size}{readme_table.CALLS}.json").write_text(json.dumps(calls))
    (tmp_path / "sd15-cpu-512.json").write_text(json.dumps(result([timed("plain", 1)])))
    counted = {"calls": 12.5, "calls_shallow": 0.0, "rows_part": 0.5}
    rows = [{"name": "plain", "calls": 25.0}, {"name": "quality"} | counted, {"name": "balanced"} | counted, {"name": "sada"} | counted]
    pictures = {"settings": {"steps": 25, "sampler": "Euler"}, "sizes": {"512": rows}}
    (tmp_path / readme_table.PICTURES).write_text(json.dumps(pictures))
    lines = readme_table.table(tmp_path).splitlines()
    # Half of the calls, and decoding, which costs a little more than a call does.
    assert "| Quality, 25 steps of Euler, a whole picture | 1.89x | 1.92x |" in lines
    assert "| Balanced, 25 steps of Euler, a whole picture | - | - |" in lines, "its downsampled calls were not timed"
    assert not any(word in line.lower() for line in lines for word in ("sada", "plain")) and "2026-02-02" in lines[-1]


def test_the_page_has_the_place_of_its_table_and_the_rows_exist():
    page = readme_table.PAGE.read_text(encoding="utf-8")
    assert page.count(readme_table.BEGIN) == page.count(readme_table.END) == 1
    assert readme_table.COMMAND.split(" && ")[0] in page
    for _, kind, variant in readme_table.ROWS:
        for size in readme_table.COLUMNS:
            assert variant in shlex.split(ROWS[f"sd15-cpu-{size}{kind}"]["arguments"])


def test_lines_of_a_plot_are_named_by_what_differs():
    first = result([timed("plain", 1), timed("plain", 1, 1024), timed("merging", 1.2), timed("tomesd", 1, not_run="why")])
    assert plots.lines_of([first], "ratio_of_min") == {"plain": [(512, 1), (1024, 1)], "merging": [(512, 1.2)]}
    second = result([timed("plain", 1, batch=8)]) | {"what": "sdxl (diffusers), random weights"}
    assert set(plots.lines_of([first, second], "min")) == {"sd15, plain, batch 2", "sd15, merging, batch 2", "sdxl, plain, batch 8"}


def test_results_of_several_processes_say_so():
    m = {"device": "a CPU", "threads": "1", "torch": "2", "date": "2026-01-01"}
    told = [plots.machine_of({"machine": m, "settings": one}) for one in ({}, {"workers": 2}, {"processes": {"count": 2}})]
    assert told[0] == "a CPU, 1 thread, torch 2, 2026-01-01"
    assert "1 thread shared by 2 processes" in told[1] and "1 thread in each of 2 processes" in told[2]


def test_a_curve_over_tokens_is_fitted_to_what_ran(tmp_path, capsys):
    import fit_tokens

    def timed_at(size, batch=2):
        tokens = (size // 8) ** 2
        return timed("plain", 1, size, batch=batch) | {"min": 0.5 + 1e-4 * tokens + 1e-8 * tokens**2}

    path = tmp_path / "r.json"
    rows = [timed_at(size) for size in (256, 512, 768, 1024)] + [timed("tomesd", 1, 512, not_run="why")]
    path.write_text(json.dumps(result(rows)))
    fit_tokens.main([str(path)])
    assert capsys.readouterr().out.splitlines()[2:] == ["| plain | 0.50 | 100 | 10.00 | 0% |"]
    path.write_text(json.dumps(result([*rows[:2], timed_at(256, 8)])))
    assert set(fit_tokens.read([path])) == {"plain, batch 2", "plain, batch 8"}
    with pytest.raises(SystemExit):
        fit_tokens.main([str(path)])
    assert "plain, batch 2 has 2 sizes; a curve takes at least three." in capsys.readouterr().err


def test_a_result_from_before_medians_is_shown():
    rows = quality_result({"plain": (1, 1), "fast": (2, 0.8)})["sizes"]["512"]
    assert "| fast | - | 40.0 | 0.800 |" in quality_table.table(rows)
    assert "| 40.0 / 41.0 / 30.0 |" in quality_table.table([rows[0], rows[1] | {"psnr_median": 41.0, "psnr_worst": 30.0}])


def test_the_pareto_front_keeps_what_nothing_beats():
    points = {"plain": [(1, 1)], "good": [(1.5, 0.9)], "worse": [(1.4, 0.8)], "as fast": [(1.5, 0.7)], "fastest": [(2, 0.5)]}
    assert plots.pareto_front(points) == [(1, 1), (1.5, 0.9), (2, 0.5)]


@pytest.mark.parametrize("kind", plots.KINDS)
def test_pictures_are_drawn_from_results(kind, tmp_path):
    pytest.importorskip("matplotlib")
    made = quality_result({"plain": (1, 1), "fast": (2, 0.8)}) if kind == "pareto" else result([timed("plain", 1), timed("fast", 2)])
    (tmp_path / "r.json").write_text(json.dumps(made))
    assert plots.main([kind, str(tmp_path / "r.json"), "--out", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_no_picture_without_results_or_matplotlib(tmp_path, monkeypatch):
    assert plots.draw("time", [tmp_path / "none.json"], tmp_path / "p.png") == "there is no result to draw"
    (tmp_path / "r.json").write_text(json.dumps(result([timed("plain", 1)])))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plots.draw("time", [tmp_path / "r.json"], tmp_path / "p.png") == "matplotlib is not installed"


def test_the_profile_of_a_call_by_kinds_of_operations(tmp_path, monkeypatch, capsys):
    from lib_accel.cli.architectures import ARCHITECTURES, Architecture

    monkeypatch.setitem(ARCHITECTURES, "tiny", Architecture((32, 64), (1, 0), None, 4, 24))
    path = tmp_path / "profile.json"
    assert profile_call.main(["--arch", "tiny", "--size", "64", "--variants", "plain", "merging:ratio=0.5", "--json", str(path)]) == 0
    plain, merging = json.loads(path.read_text())["milliseconds"].values()
    assert plain["self- and cross-attention"] > 0 and plain["convolutions"] > 0
    moving = "gathering and scattering (merging)"
    assert merging[moving] > 0 and moving not in plain
    assert "| sum |" in capsys.readouterr().out
    kinds = {"aten::addmm": "linear layers", "aten::add": "element by element", "aten::mm": "linear layers", "aten::what": "other"}
    assert {name: profile_call.kind_of(name) for name in kinds} == kinds


def test_a_batch_in_which_one_picture_needs_more_calls(capsys):
    import uneven_batch

    assert (
        uneven_batch.main(["--count", "4", "--steps", "9", "--size", "64", "--rounds", "1", "--level", "fastest", "--sampler", "Euler"])
        == 0
    )
    told = capsys.readouterr().out
    alone = [int(number) for number in told.split("calls alone: ")[1].split(" of ")[0].split(", ")]
    ran = int(told.split("in one batch ")[1].split(" of ")[0])
    assert len(alone) == 4 and max(alone) <= 9 and ran <= 2 * 9 * 4 and "x as fast" in told


@pytest.mark.parametrize("name", ["Res Multistep", "ER SDE Karras"])
def test_samplers_of_the_forge_family(name, tmp_path):
    """They are forecast by the values of the table, and are nobody's afterwards."""
    import forge_samplers

    from lib_accel.cli.samplers import SAMPLERS
    from lib_accel.core.scheduler_classes import CLASSES

    before = {*SAMPLERS}, {*CLASSES}
    words = "--preset --method --count 1 --size 64 --steps 12 --variants forecast:tolerance=1000,largest_gap=1,last=1 --sampler"
    assert forge_samplers.main([*words.split(), name, "--out", str(tmp_path)]) == 0
    (rows,) = json.loads((tmp_path / "quality.json").read_text())["sizes"].values()
    assert rows[1]["calls"] < 12 and math.isfinite(rows[1]["psnr"])
    assert ({*SAMPLERS}, {*CLASSES}) == before


def test_the_forge_familys_samplers_step_as_they_do_there():
    """Schedulers and weights share their formulas; these are compared with the host's own latents in `test_samplers`."""
    import torch

    from benchmarks.lab.forge_samplers import ERSDEScheduler
    from lib_accel.core.sampler_gains import er_scale, er_sde_weights

    scheduler = ERSDEScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="linspace")
    scheduler.set_timesteps(6)
    sigmas, pictures = scheduler.sigmas.tolist(), torch.randn(6, 1, 1, 64, 64, dtype=torch.float64)
    x = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    for j, timestep in enumerate(scheduler.timesteps):
        after = scheduler.step((x - pictures[j]) / sigmas[j], timestep, x)[0]
        if j == 5:
            assert torch.allclose(after, pictures[5])
            break
        kept = er_scale(sigmas[j + 1]) / er_scale(sigmas[j])
        drift = kept * x + sum(weight * pictures[j - back] for back, weight in enumerate(er_sde_weights(sigmas, j)))
        assert (after - drift).std().item() == pytest.approx(math.sqrt(sigmas[j + 1] ** 2 - (sigmas[j] * kept) ** 2), rel=0.1)
        x = after
