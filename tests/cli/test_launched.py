"""Commands under a launcher of two processes: the same pictures and numbers as from one, written once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import launched
import pytest
from PIL import Image, ImageChops

from lib_accel.cli import processes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What one process wrote, and what two wrote."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(ROOT / "tests/cli/launched.py")]
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*launcher, str(two), "users"], env=os.environ | paths, stdout=subprocess.PIPE, text=True) as running:
        launched.run(str(one))
        said, _ = running.communicate(timeout=600)
    assert running.returncode == 0
    return one, two, said


def results(folder, name):
    (file,) = (folder / name).glob("*.json")
    return json.loads(file.read_text())


def test_pictures_are_the_same_bit_for_bit(folders):
    one, two, _ = folders
    names = sorted(path.relative_to(one) for path in one.rglob("*.png"))
    assert names == sorted(path.relative_to(two) for path in two.rglob("*.png"))
    # Grids of `quality` and `edit` say times, dates and how long they took.
    for name in (name for name in names if name.name not in ("edit.png", "grid-64.png")):
        assert ImageChops.difference(Image.open(one / name), Image.open(two / name)).getbbox() is None, name


@pytest.mark.parametrize("name", ["evaluate", "edits"])
def test_evaluations_are_the_same(folders, name):
    one, two = (results(folder, name) for folder in folders[:2])
    assert one["summary"] == two["summary"]
    assert [one.get(key) for key in ("pictures", "records", "weights", "blends")] == [
        two.get(key) for key in ("pictures", "records", "weights", "blends")
    ]


def test_distances_are_the_same(folders):
    one, two = (results(folder, "quality")["sizes"]["64"] for folder in folders[:2])
    timeless = {"seconds", "ratio", "account"}
    assert [{key: row[key] for key in row if key not in timeless} for row in one] == [
        {key: row[key] for key in row if key not in timeless} for row in two
    ]


def test_results_tell_how_many_processes_there_were(folders):
    one, two, said = folders
    for name in ("quality", "edit", "evaluate", "edits"):
        assert results(one, name)["settings"]["processes"] == {"count": 1, "devices": ["cpu"]}
        assert results(two, name)["settings"]["processes"] == {"count": 2, "devices": ["cpu", "cpu"]}
    assert said.count("2 processes, on cpu, cpu.") == 1
    assert said.count("| plain |") == 1


ABORTS = """
import atexit, os, pathlib, sys, time
from lib_accel.cli.processes import Processes, is_first, wait_for_first
if not is_first():
    atexit.register(os._exit, 3)  # before the first thing of anybody else: it is called last
processes = Processes("cpu")
assert processes.gathered([1]) == [1, 1] * is_first()
if is_first():
    time.sleep(2)
    pathlib.Path(sys.argv[1]).write_text("written")
wait_for_first()
"""


def test_a_process_that_fails_at_its_end_loses_nothing(tmp_path):
    (tmp_path / "script.py").write_text(ABORTS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(tmp_path / "script.py"), str(tmp_path / "out")]
    done = subprocess.run(launcher, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert done.returncode and b"exitcode  : 3" in done.stderr
    assert (tmp_path / "out").read_text() == "written"


def test_without_accelerate_there_is_one_sentence(monkeypatch, capsys, tmp_path):
    from lib_accel.cli.main import main

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert main(["quality", "--count", "1", "--out", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert "accelerate" in errors and errors.count("\n") == 1


def test_other_commands_run_in_the_first_process_alone(monkeypatch, capsys):
    from lib_accel.cli.main import main

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert not processes.is_first()
    assert main(["check"]) == 0
    assert capsys.readouterr().out == ""
