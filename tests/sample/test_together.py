"""Several processes train one model: each has its rows, all have the mean of the slopes and the first one's numbers."""

import argparse
import multiprocessing
import os
import socket

import pytest
import torch

from lib_accel.cli import main as cli
from sample_model import evaluate, evaluate_edits, train_autoencoder, train_diffusion, train_flow
from sample_model.optimizers import MuonAndAdamW, hidden_matrices
from sample_model.together import Together


def in_process(rank, port, told):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    together = Together()
    weight, unused = (torch.nn.Parameter(torch.full((3,), float(rank))) for _ in range(2))
    together.same([weight])
    rows = together.part(list(range(5)))
    (weight * sum(rows)).sum().backward()
    together.average([weight, unused])
    made = together.first_before_others(lambda: rank)
    shares, spread = together.shares([1, 3, 2]), [torch.full((2,), 10.0 * rank + index) for index in range(3)]
    together.spread(spread, shares)
    result = [part[0].item() for part in spread], muon_steps(together.part)
    told.put((rank, weight.tolist(), rows, weight.grad.tolist(), unused.grad.tolist(), together.same_number(7.5 + rank), made, *result))


def muon_steps(part):
    """What two steps of a training on four rows make of a small network's first weights."""
    torch.manual_seed(0)
    layers, rows = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3))), torch.randn(4, 4)
    optimizer, together = MuonAndAdamW(layers.parameters(), hidden_matrices(layers), 0.1, 0.01), Together()
    for _ in range(2):
        optimizer.zero_grad()
        layers(part(rows)).square().mean().backward()
        together.average(list(layers.parameters()))
        optimizer.step()
    return [round(value, 4) for layer in layers for value in layer.weight[0].tolist()]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_processes_have_their_rows_and_one_mean():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    told = fork.Queue()
    processes = [fork.Process(target=in_process, args=(rank, port, told), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    found = sorted(told.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(60)
    mean = [(0 + 2 + 4 + 1 + 3) / 2] * 3
    # The dearest piece is the first process's, the two others are the second one's.
    both = mean, [0.0] * 3, 7.5
    told = [10.0, 1.0, 12.0]
    assert [entry[:-1] for entry in found] == [(0, [0.0] * 3, [0, 2, 4], *both, 0, told), (1, [0.0] * 3, [1, 3], *both, 1, told)]
    assert found[0][-1] == found[1][-1] == pytest.approx(muon_steps(lambda rows: rows), abs=0.01)


def test_one_process_does_everything_alone():
    together = Together()
    parameter = torch.nn.Parameter(torch.ones(2))
    together.average([parameter])
    assert parameter.grad is None
    assert together.part([1, 2]) == [1, 2]
    assert together.same_number(2.5) == 2.5
    assert together.first_before_others(lambda: "made") == "made"


class CaughtError(Exception):
    pass


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
@pytest.mark.parametrize("script", [train_diffusion, train_autoencoder, train_flow, evaluate, evaluate_edits, "quality"])
def test_torchrun_takes_every_option(script, monkeypatch):
    """It refuses options of the script that begin two of its own (findings/torchrun-refuses-the-scripts-options.sh)."""
    from torch.distributed import run

    if script == "quality":
        used = cli.parser_of()[0]._subparsers._group_actions[0].choices["quality"]
    else:

        def caught(parser, *_):
            raise CaughtError(parser)

        with monkeypatch.context() as patch, pytest.raises(CaughtError) as found:
            patch.setattr(argparse.ArgumentParser, "parse_args", caught)
            script.main([])
        (used,) = found.value.args
    options = [option for option in used._option_string_actions if option.startswith("--")]
    theirs = run.get_args_parser()
    assert len(options) > 5
    for option in options:
        assert theirs.parse_args(["script.py", option]).training_script_args == [option]
