"""Matching among neighbouring cells."""

import pytest
import torch
from models import UNETS, call

from lib_accel import SettingError, TokenMerging, accelerated
from lib_accel.ops.local_matching import KeptTensors
from lib_accel.ops.matching import match_tokens, random_offsets

H, W, SX, SY = 20, 22, 3, 2


def tokens(rows=2):
    return torch.randn(rows, H * W, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("offsets", [None, random_offsets(H, W, SX, SY, step=5, level=0)], ids=["top-left", "random"])
def test_a_radius_over_the_whole_grid_is_global_matching(offsets):
    everywhere, near = (match_tokens(tokens(), H, W, SX, SY, offsets, radius) for radius in (None, 20))
    assert torch.equal(everywhere.best, near.best) and torch.equal(everywhere.order, near.order)


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("offsets", [None, random_offsets(H, W, SX, SY, step=5, level=0)], ids=["top-left", "random"])
def test_every_source_goes_to_the_most_similar_destination_of_the_cells_around_it(offsets, radius):
    x = tokens(1)
    match = match_tokens(x, H, W, SX, SY, offsets, radius)
    unit = torch.nn.functional.normalize(x[0], dim=-1)
    cell_of = [(min(p // W // SY, H // SY - 1), min(p % W // SX, W // SX - 1)) for p in range(H * W)]
    destinations = match.destinations.tolist()
    for place, source in enumerate(match.sources.tolist()):
        row, column = cell_of[source]
        near = [d for d in destinations if abs(cell_of[d][0] - row) <= radius and abs(cell_of[d][1] - column) <= radius]
        best = max(near, key=lambda d: float(unit[source] @ unit[d]))
        assert destinations[int(match.best[0, place])] == best


def test_large_grids_are_compared_in_parts():
    x = torch.randn(1, 64 * 64, 4, dtype=torch.float64)
    whole = match_tokens(x, 64, 64, 2, 2, radius=1)
    upper = match_tokens(x[:, : 32 * 64], 32, 64, 2, 2, radius=1)
    inner = upper.sources < 30 * 64
    assert torch.equal(whole.best[:, : inner.sum()], upper.best[:, inner])


@pytest.mark.parametrize("name", ["ldm", "diffusers", "sgm"])
def test_plain_enabled_disabled(name):
    unet = UNETS[name]()
    plain = call(unet)
    with accelerated(unet, TokenMerging(matching="local")):
        local = call(unet)
    with accelerated(unet, TokenMerging()):
        assert not torch.equal(call(unet), local)
    assert not torch.equal(local, plain) and torch.equal(call(unet), plain)


def test_bad_settings_get_a_sentence():
    with pytest.raises(SettingError, match=r"TokenMerging.matching is 'near'; it must be one of 'global', 'local'\."):
        TokenMerging(matching="near")
    with pytest.raises(SettingError, match=r"TokenMerging.radius is 0; it must be a whole number from 1 to 16\."):
        TokenMerging(radius=0)


def test_what_is_kept_is_bounded_by_bytes():
    kept = KeptTensors(1000)
    first = kept.get("first", lambda: torch.zeros(50, dtype=torch.int64))
    assert kept.get("first", lambda: None) is first and kept.nbytes == 400
    kept.get("second", lambda: torch.zeros(100, dtype=torch.int64))
    assert kept.nbytes == 800 and kept.get("first", lambda: torch.ones(1)) is not first
    kept.get("too large", lambda: torch.zeros(1000))
    assert kept.nbytes <= 1000


def test_no_table_of_neighbours_survives_removal():
    unet = UNETS["diffusers"]()
    with accelerated(unet, TokenMerging(matching="local", use_rand=False)) as accelerator:
        call(unet)
        kept = accelerator.running(TokenMerging).planner._near
        assert kept.nbytes > 0
    assert kept.nbytes == 0
