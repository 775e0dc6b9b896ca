"""`python -m lib_accel calibrate`."""

import sys

import pytest
import torch

from lib_accel.cli import architectures, calibrate
from lib_accel.cli.architectures import Architecture
from lib_accel.cli.main import main
from lib_accel.engine.thresholds import NEVER, own_path, read_own


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCEL_DATA", str(tmp_path))
    monkeypatch.setattr(calibrate, "TOP_LEVEL", Architecture((32,), (1,), None, 4, 24))
    monkeypatch.setattr(calibrate, "GRIDS", (8, 16))
    monkeypatch.setitem(calibrate.ARCHITECTURES, "top-level", calibrate.TOP_LEVEL)


def test_writes_a_table_for_this_device(monkeypatch, capsys):
    ticks = {"plain": 1.0}
    monkeypatch.setattr(calibrate, "timed", lambda work: (work(), ticks["plain"])[1])
    assert main(["calibrate", "--runs", "1", "--device", "cpu"]) == 0
    assert read_own(torch.device("cpu"))[0] == dict.fromkeys(calibrate.METHODS, NEVER), "nothing was faster"
    assert "never pays" in capsys.readouterr().out


def test_without_diffusers_the_webuis_own_unet_is_measured(monkeypatch, capsys, tmp_path):
    """AUTOMATIC1111's WebUI brings no diffusers, but a folder with LDM."""
    found = architectures.importlib.util.find_spec
    there = {"diffusers": False, "ldm": False}
    monkeypatch.setattr(architectures, "HOSTS_LDM", tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def find_spec(name):
        return found(name) if there.get(name, True) or (name == "ldm" and str(tmp_path) in sys.path) else None

    monkeypatch.setattr(architectures.importlib.util, "find_spec", find_spec)
    built, build = [], calibrate.build_unet
    monkeypatch.setattr(calibrate, "build_unet", lambda name, backend: built.append(backend) or build(name, backend))
    assert main(["calibrate", "--runs", "1", "--device", "cpu", "--dry-run"]) == 0
    assert built == ["ldm"] and "16x16 tokens: " in capsys.readouterr().out
    monkeypatch.setattr(architectures, "HOSTS_LDM", tmp_path / "nothing")
    sys.path.remove(str(tmp_path))
    assert architectures.at_hand() == "diffusers", "what is missing is named"


def test_dry_run_keeps_nothing():
    assert main(["calibrate", "--runs", "1", "--device", "cpu", "--dry-run"]) == 0
    assert not own_path().exists()


@pytest.mark.parametrize(
    ("ratios", "least"),
    [
        ({64: 0.9, 256: 1.1, 1024: 1.5}, 256),
        ({64: 1.2, 256: 1.0, 1024: 1.5}, 1024),
        ({64: 1.2, 256: 1.3}, 64),
        ({64: 1.2, 256: 1.01}, NEVER),
    ],
)
def test_least_tokens_pay_at_every_larger_size(ratios, least):
    assert calibrate.least_tokens(ratios) == least


def test_bad_runs_get_a_sentence(capsys):
    assert main(["calibrate", "--runs", "0"]) == 2
    assert "--runs is 0" in capsys.readouterr().err
