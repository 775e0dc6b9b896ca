"""Leaving out rows and columns of a token grid."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_accel.ops.downsampling import downsample_grid


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
