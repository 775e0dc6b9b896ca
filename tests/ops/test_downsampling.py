"""Leaving out rows and columns of a token grid."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_accel.ops.downsampling import GridPool, downsample_grid


def test_every_second_token_of_every_second_row():
    x = torch.arange(3 * 5).view(1, 15, 1)
    assert downsample_grid(x, 3, 5, 2).flatten().tolist() == [0, 2, 4, 10, 12, 14]


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_equals_nearest_interpolation_where_the_factor_divides(factor):
    x = torch.randn(2, 12 * 18, 4)
    picture = x.transpose(1, 2).unflatten(2, (12, 18))
    nearest = torch.nn.functional.interpolate(picture, size=(12 // factor, 18 // factor), mode="nearest")
    assert torch.equal(downsample_grid(x, 12, 18, factor), nearest.flatten(2).transpose(1, 2))


@given(h=st.integers(1, 40), w=st.integers(1, 40), factor=st.integers(1, 8))
def test_any_grid_keeps_a_token_of_every_cell(h, w, factor):
    positions = torch.arange(h * w).view(1, h * w, 1)
    kept = downsample_grid(positions, h, w, factor).flatten()
    assert kept.numel() == -(-h // factor) * -(-w // factor)
    assert all(p // w % factor == 0 and p % w % factor == 0 for p in kept.tolist())


@given(h=st.integers(1, 20), w=st.integers(1, 20), sx=st.integers(1, 6), sy=st.integers(1, 6))
def test_pool_is_the_mean_of_every_cell(h, w, sx, sy):
    x = torch.randn(2, h * w, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(h * w))
    grid = x.unflatten(1, (h, w))
    cells = [grid[:, i : i + sy, j : j + sx].flatten(1, 2).mean(1) for i in range(0, h, sy) for j in range(0, w, sx)]
    torch.testing.assert_close(GridPool(h, w, sx, sy).merge(x), torch.stack(cells, 1))


def test_pool_of_large_half_precision_values_does_not_overflow():
    x = torch.full((1, 64, 2), 6e4, dtype=torch.float16)
    assert torch.equal(GridPool(8, 8, 4, 4).merge(x), x[:, :4])
