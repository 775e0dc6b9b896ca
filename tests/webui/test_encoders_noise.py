"""img2img's encoder draws from the process's generator, which every run leaves elsewhere: our scripts' runs start alike all the same."""

import random

import numpy as np
import pytest
import torch
from comparing import ON, compare
from editing import SWAP, close, draw
from harness import same


@pytest.fixture
def noisy(host):
    host.shared.sd_model.encoder_noise = 0.5
    return host


def state():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


def test_the_double_draws_as_the_host_does(noisy):
    assert not same(noisy.job("img2img"), noisy.job("img2img"))


def test_runs_of_a_comparison_start_alike(noisy):
    done = compare(noisy, repeats=2, tab="img2img", accel={"enabled": True, "preset": "Custom"})
    assert "Pictures: identical." in done.comments and "not reproducible" not in done.comments
    fast = compare(noisy, repeats=2, tab="img2img", accel=ON)
    assert "not reproducible" not in fast.comments


@pytest.mark.parametrize("script", [compare, lambda host, **more: draw(host, SWAP | {"at_once": 2}, **more)], ids=["a/b", "edits"])
def test_what_comes_later_finds_what_one_job_would_have_left(noisy, script):
    count = 1 if script is compare else 2
    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    noisy.job("img2img", batch_size=count, steps=4)
    left = state()
    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    script(noisy, tab="img2img", steps=4)
    assert state() == left


@pytest.mark.parametrize("settings", [{"edits": "cat*1\nred*1"}, {"edits": "cat*1", "off": True}])
def test_rows_of_a_grid_start_from_the_same_latents(noisy, settings):
    """A source edited into itself is the source, in whichever batch it is drawn."""
    done = draw(noisy, settings | {"at_once": 2}, "img2img")
    source, *others = done.images[done.index_of_first_image :]
    assert len(others) >= 2 and all(close(source, other) for other in others)
