"""`python -m lib_accel calibrate`."""

import pytest
import torch

from lib_accel.cli import calibrate
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
