"""Level detection: every row of the golden list, those where the published formula fails included."""

import pytest
from golden import read_json

from lib_accel.ops.levels import grid_at, level_of

ROWS = read_json("token_merging/levels")


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r['latent_h']}x{r['latent_w']}-{r['level']}")
def test_golden(row):
    assert grid_at(row["latent_h"], row["latent_w"], row["level"]) == (row["grid_h"], row["grid_w"])
    level = level_of(row["tokens"], row["latent_h"], row["latent_w"])
    assert grid_at(row["latent_h"], row["latent_w"], level) == (row["grid_h"], row["grid_w"])
    # A latent of 2x3 is one token from level 2 on: the count cannot tell deeper levels apart.
    assert 2**level == row["true_downsample"] or row["tokens"] == 1


def test_the_list_holds_sizes_at_which_the_published_formula_is_wrong():
    assert any(not row["official_matches"] for row in ROWS)


def test_a_count_that_no_level_has():
    assert level_of(77, 64, 64) is None
    assert level_of(64 * 64 + 1, 64, 64) is None


def test_only_so_many_levels_are_walked():
    assert level_of(1, 64, 64, deepest=6) == 6
    assert level_of(1, 64, 64, deepest=5) is None
