"""Grids of levels: every row of the golden list, those where the published formula fails included."""

import pytest
from golden import read_json

from lib_accel.ops.levels import grid_at

ROWS = read_json("token_merging/levels")


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r['latent_h']}x{r['latent_w']}-{r['level']}")
def test_golden(row):
    assert grid_at(row["latent_h"], row["latent_w"], row["level"]) == (row["grid_h"], row["grid_w"])
    assert row["grid_h"] * row["grid_w"] == row["tokens"] and 2 ** row["level"] == row["true_downsample"]


def test_the_list_holds_sizes_at_which_the_published_formula_is_wrong():
    assert any(not row["official_matches"] for row in ROWS)
