"""Limits and peers: what they do to a U-Net, that they leave nothing behind, and what is said of those that do not run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from traces import fingerprint

from lib_accel.cli import lab
from lib_accel.cli.architectures import ARCHITECTURES, Architecture, build_unet
from lib_accel.cli.errors import CommandError
from lib_accel.cli.inputs import UNetInputs
from lib_accel.cli.lab import PEERS
from lib_accel.cli.main import main
from lib_accel.cli.workloads import Sampling

TINY = Architecture((32, 64), (1, 0), None, 4, 24)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", TINY)


@pytest.fixture
def unet():
    return build_unet("tiny", "diffusers")


def bench(words):
    return main(["bench", "--arch", "tiny", "--size", "64", "--runs", "1", *words.split()])


PEERS_AT_WORK = ["no-self-attention", "no-cross-attention", "half-the-rows", "pyramid-attention", "published-deepcache", "tomesd"]


@pytest.mark.parametrize("name", PEERS_AT_WORK)
def test_a_peer_changes_the_result_and_leaves_nothing_behind(name, unet):
    if name in ("tomesd", "published-deepcache"):
        pytest.importorskip({"published-deepcache": "DeepCache"}.get(name, name))
    sampling = Sampling(unet, 64, 2, torch.float32, "cpu", 6, 5.0)
    before = fingerprint(unet)
    with torch.no_grad():
        plain = sampling(None)
        with PEERS[name].apply(unet):
            assert not torch.equal(sampling(None), plain)
        assert name == "tomesd" or fingerprint(unet) == before
        assert torch.equal(sampling(None), plain)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_half_the_rows_runs_the_second_half_and_returns_it_for_all(unet, rows):
    seen = []
    unet.conv_in.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    with torch.no_grad():
        inputs = UNetInputs(unet, 64, rows, torch.float32, "cpu")
        whole = inputs(unet)
        with PEERS["half-the-rows"].apply(unet):
            half = inputs(unet)
    assert seen == [rows, rows - rows // 2]
    assert half.shape == whole.shape
    torch.testing.assert_close(half[-1], whole[-1])
    if rows == 2:
        assert torch.equal(half[0], half[1])


def test_a_peer_that_keeps_things_asks_for_whole_generations(unet):
    with torch.no_grad(), pytest.raises(CommandError, match="only whole generations"), PEERS["pyramid-attention"].apply(unet):
        UNetInputs(unet, 64, 2, torch.float32, "cpu")(unet)


def test_peers_that_do_not_run_are_told_with_the_reason_and_cost_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "DeepCache", None)
    path = tmp_path / "peers.json"
    assert bench(f"--whole --steps 3 --json {path} --variants plain faster-cache half-the-rows") == 0
    plain, failing, limit = json.loads(path.read_text())["rows"]
    assert failing["not_run"] and failing["seconds"] == [] and failing["min"] is None
    assert plain["not_run"] is limit["not_run"] is None and limit["min"] > 0
    out = capsys.readouterr().out
    assert f"| faster-cache | not run: {failing['not_run']} |" in out
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


def test_a_missing_package_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "DeepCache", None)
    assert bench("--whole --steps 2 --variants plain published-deepcache") == 0
    assert "| published-deepcache | not run: the package DeepCache is not installed |" in capsys.readouterr().out


def test_ldm_unets_are_not_for_diffusers_hooks(capsys):
    assert bench("--backend ldm --whole --steps 2 --variants plain pyramid-attention") == 0
    assert "not run: it knows diffusers' U-Nets only" in capsys.readouterr().out


def test_what_all_ratios_are_against_must_run(capsys):
    assert bench("--variants pyramid-attention plain") == 2
    assert "only whole generations" in capsys.readouterr().err


def test_without_the_lab_there_are_no_peers_and_it_is_said(tmp_path):
    """As an installed package: without the folder benchmarks beside it."""
    shutil.copytree(Path(lab.__file__).parents[1], tmp_path / "lib_accel", ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    command = [sys.executable, "-m", "lib_accel", "bench", "--arch", "sd15", "--variants", "plain", "tomesd"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "'tomesd' must be one of plain" in done.stderr and "other tools and limits are not here" in done.stderr
