"""`--device`: a name that cannot be gets a sentence, results name the device they were measured on, times wait for it."""

import re

import pytest
import torch

from lib_accel.cli import devices, measuring
from lib_accel.cli.main import main


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", ""])
@pytest.mark.parametrize("words", ["demo", "check", "bench", "calibrate --dry-run", "quality", "edit a b", "maps a a"])
def test_a_device_that_is_not_there_gets_one_sentence(words, device, capsys):
    assert main([*words.split(), "--device", device]) == 2
    errors = capsys.readouterr().err
    assert (
        re.search(rf"--device is {re.escape(repr(device))}; on this machine it must be (one of )?cpu", errors) and errors.count("\n") == 1
    )


@pytest.fixture
def two_gpus(monkeypatch):
    """What is asked of torch, as if there were two."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.append(("set", str(device))))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: asked.append("wait"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the card {device}")
    return asked


def test_results_name_the_device_that_was_used(two_gpus):
    assert measuring.machine("cuda:1")["device"] == "the card cuda:1"
    assert measuring.machine("cpu")["device"].endswith(" CPU")


def test_times_are_to_the_end_of_the_work_of_the_device_that_was_given(two_gpus):
    devices.use_device("cuda:1")
    measuring.timed(lambda: two_gpus.append("work"))
    assert two_gpus == [("set", "cuda:1"), "wait", "work", "wait"]
    with pytest.raises(measuring.CommandError, match="one of cpu, cuda, cuda:0, cuda:1"):
        devices.use_device("cuda:2")


def test_times_wait_for_apples_devices_too(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append(True))
    measuring.timed(lambda: None)
    assert len(waited) == 2 and measuring.machine("mps")["device"].startswith("mps of ")
