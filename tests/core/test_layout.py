"""Rows as data: who they are, and tensors kept for exactly them."""

import pytest
import torch

from lib_accel.core.rows import Layout, Row, RowStore, shares_of

COND, UNCOND = Row("cond", 0), Row("uncond", 0)


def stored(*rows, size=(3,), dtype=torch.float32, site="site"):
    store = RowStore()
    store.put(site, Layout(rows), torch.arange(len(rows), dtype=dtype).view(-1, *[1] * len(size)).expand(-1, *size))
    return store


def test_an_unknown_role_gets_a_sentence():
    with pytest.raises(ValueError, match=r"Row.role is 'positive'; it must be one of cond, uncond, image, unknown\."):
        Row("positive")


def test_rows_are_told_apart_by_role_image_and_part_alone():
    assert Row("cond", 1, 2, weight=0.5).key == Row("cond", 1, 2, weight=7.0).key
    assert len({Row(*args).key for args in [("cond", 0), ("uncond", 0), ("cond", 1), ("cond", 0, 1)]}) == 4


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ((1.0,), (1,)),
        ((0.5,), (1,)),
        ((1.0, 1.0), (0.5, 0.5)),
        ((1.0, 0.5, 0.5), (0.5, 0.25, 0.25)),
        ((1.0, -1.0), (1, 0)),
        ((0.2, 0.6, -0.8), (0.25, 0.75, 0)),
        ((-1.0, -3.0), (0.5, 0.5)),
        ((0.0, 0.0), (0.5, 0.5)),
    ],
)
def test_what_the_parts_of_an_and_prompt_count(weights, shares):
    assert shares_of(weights) == pytest.approx(shares)


def test_layouts():
    assert Layout.guided(4) == Layout([Row("uncond", 0), Row("uncond", 1), Row("cond", 0), Row("cond", 1)])
    assert Layout.guided(4).known
    assert Layout.unknown(2, offset=3) == Layout([Row("unknown", 3), Row("unknown", 4)])
    assert not Layout([COND, Row("unknown", 0)]).known


def test_rows_come_back_in_the_order_asked_for():
    store = stored(UNCOND, COND, Row("cond", 1))
    assert store.get("site", Layout([COND, UNCOND]))[:, 0].tolist() == [1.0, 0.0]
    assert store.get("site", Layout([Row("cond", 1)])).shape == (1, 3)


def test_rows_put_in_two_calls_come_back_in_one():
    store = stored(COND)
    store.put("site", Layout([UNCOND]), torch.full((1, 3), 5.0))
    assert store.get("site", Layout([UNCOND, COND]))[:, 0].tolist() == [5.0, 0.0]


@pytest.mark.parametrize("missing", [Row("cond", 1), Row("cond", 0, 1), Row("image", 0), Row("unknown", 0)])
def test_a_missing_row_means_none(missing):
    store = stored(COND, UNCOND)
    assert store.get("site", Layout([missing])) is None
    assert store.get("site", Layout([COND, missing])) is None


def test_one_row_is_never_spread_over_several():
    store = stored(COND)
    assert store.get("site", Layout([COND, UNCOND])) is None
    with pytest.raises(ValueError, match="A tensor of 1 rows cannot be kept for a layout of 2 rows"):
        store.put("site", Layout([COND, UNCOND]), torch.zeros(1, 3))


@pytest.mark.parametrize("other", [torch.zeros(1, 4), torch.zeros(1, 3, 1), torch.zeros(1, 3).half(), torch.zeros(1, 3, device="meta")])
def test_rows_that_do_not_go_together_mean_none(other):
    """Other token counts, dtypes or devices."""
    store = stored(COND)
    store.put("site", Layout([UNCOND]), other)
    assert store.get("site", Layout([COND, UNCOND])) is None
    assert store.get("site", Layout([UNCOND])).shape == other.shape


def test_sites_do_not_meet():
    store = stored(COND, site="one")
    assert store.get("other", Layout([COND])) is None


def test_no_rows_are_nothing():
    assert stored(COND).get("site", Layout([])) is None


def test_a_row_put_again_replaces_the_old():
    store = stored(COND, UNCOND)
    store.put("site", Layout([COND]), torch.full((1, 3), 9.0))
    assert store.get("site", Layout([COND, UNCOND]))[:, 0].tolist() == [9.0, 1.0]
    assert len(store) == 2


def test_clear():
    store = stored(COND, UNCOND)
    store.clear()
    assert len(store) == 0 and store.get("site", Layout([COND])) is None


def test_what_comes_back_is_a_copy():
    store = stored(COND)
    store.get("site", Layout([COND])).add_(100)
    assert store.get("site", Layout([COND])).max() == 0
