"""What rows were given before: held, continued along a coordinate, and only ever given back to the same row."""

import pytest
import torch

from lib_accel.core.row_history import RowHistory
from lib_accel.core.rows import Layout, Row

COND, UNCOND = Row("cond"), Row("uncond")
PAIR = Layout([UNCOND, COND])


def line(*sigmas, depth=2, dtype=torch.float64, offload=False):
    """A history of values on the line 3 - 2 sigma (uncond) and 1 + sigma (cond)."""
    history = RowHistory(depth, offload)
    for sigma in sigmas:
        history.put("output", PAIR, torch.tensor([[3 - 2 * sigma], [1 + sigma]], dtype=dtype), sigma)
    return history


@pytest.mark.parametrize("asked", [0.3, 4.0, 7.5])
def test_a_line_is_continued_exactly(asked):
    history = line(10.0, 6.0, 5.0)
    expected = torch.tensor([[3 - 2 * asked], [1 + asked]], dtype=torch.float64)
    torch.testing.assert_close(history.at("output", PAIR, asked, 1), expected, atol=1e-14, rtol=0)


def test_half_an_order_is_the_mean_of_held_and_continued():
    history = line(6.0, 5.0)
    held, continued, half = (history.at("output", PAIR, 4.0, order) for order in (0, 1, 0.5))
    assert torch.equal(held, history.at("output", PAIR, 5.0, 1))
    torch.testing.assert_close(half, (held + continued) / 2, atol=1e-14, rtol=0)


def test_what_was_seen_once_is_held():
    once = line(6.0)
    assert torch.equal(once.at("output", PAIR, 1.0, 1), once.at("output", PAIR))
    twice = line(6.0, 6.0)
    assert len(twice) == 2 and torch.equal(twice.at("output", PAIR, 1.0, 1), once.at("output", PAIR))


def test_only_the_last_few_are_kept():
    history = line(9.0, 8.0, 7.0, depth=2)
    assert [kept.coordinate for kept in history.newest("output", COND, 5)] == [7.0, 8.0]
    assert len(history) == 4 and history.nbytes == 4 * 8
    assert [kept.coordinate for kept in line(9.0, 8.0, depth=1).newest("output", COND)] == [8.0]
    assert history.newest("output", Row("cond", 1)) == [] and history.newest("elsewhere", COND) == []


def test_rows_are_continued_from_their_own():
    """Rows of a picture may have run at other noise levels than another's."""
    history = line(10.0, 8.0)
    history.put("output", Layout([COND]), torch.tensor([[8.0]], dtype=torch.float64), 7.0)
    assert history.at("output", Layout([COND, UNCOND]), 6.0, 1).flatten().tolist() == [7.0, -9.0]
    assert history.at("output", [COND, Row("cond", 1)]) is None and history.at("output", []) is None
    with pytest.raises(ValueError, match="A tensor of 1 rows cannot be kept for a layout of 2 rows"):
        history.put("output", PAIR, torch.zeros(1, 1), 5.0)


def test_half_precision_is_continued_in_float32():
    history = RowHistory(2)
    for sigma, value in ((3.0, 1.0), (2.0, 1.0009765625)):
        history.put("x", Layout([COND]), torch.tensor([[value]], dtype=torch.float16), sigma)
    assert history.at("x", [COND], 1.0, 1).dtype == torch.float16
    assert history.at("x", [COND], 1.5, 0.5).item() == pytest.approx(1.001220703125, abs=1e-3)


def test_values_are_copies_both_ways():
    history, given = RowHistory(), torch.zeros(1, 3)
    history.put("x", Layout([COND]), given)
    given += 1
    history.at("x", [COND]).add_(1)
    assert history.at("x", [COND]).tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("other", [torch.zeros(1, 4), torch.zeros(1, 3, 1), torch.zeros(1, 3).half(), torch.zeros(1, 3, device="meta")])
def test_rows_that_do_not_go_together_are_not_given(other):
    history = RowHistory(2)
    history.put("x", Layout([COND]), torch.zeros(1, 3))
    history.put("x", Layout([UNCOND]), other)
    assert history.at("x", PAIR) is None and history.at("x", [COND]).shape == (1, 3)


def test_another_size_in_between_is_held():
    history = RowHistory(2)
    history.put("x", Layout([COND]), torch.zeros(1, 3), 3.0)
    history.put("x", Layout([COND]), torch.ones(1, 4), 2.0)
    assert history.at("x", [COND], 1.0, 1).tolist() == [[1.0] * 4]


def test_offloading_lies_in_main_memory_and_comes_back_where_it_was():
    history = line(6.0, 5.0, offload=True)
    assert torch.equal(history.at("output", PAIR, 4.0, 1), line(6.0, 5.0).at("output", PAIR, 4.0, 1))
    assert {kept.tensor.device.type for kept in history.newest("output", COND, 2)} == {"cpu"}


def test_forgetting():
    history = line(6.0)
    assert history.under(("16x16", "a cat")) and not len(history)
    history.put("output", PAIR, torch.zeros(2, 1))
    assert not history.under(("16x16", "a cat")) and len(history) == 2
    history.drop("output", [COND])
    assert history.rows("output") == Layout([UNCOND])
    assert history.under(("16x16", "a dog")) and history.rows("output") == Layout([])
    history.put("output", PAIR, torch.zeros(2, 1))
    history.clear()
    assert len(history) == history.nbytes == 0


def test_depth_is_checked():
    with pytest.raises(ValueError, match=r"RowHistory\.depth is 0; it must be 1 or more"):
        RowHistory(0)


def test_what_is_handed_back_is_laid_out_as_it_came():
    """A model in channels_last runs other kernels on what is not, slower ones, and differs in the last bit."""
    history, rows = RowHistory(depth=2), Layout([Row("cond", 0), Row("uncond", 0)])
    for sigma in (2.0, 1.0):
        history.put("place", rows, torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last), sigma)
    for order in (0, 1):
        assert history.at("place", rows, 0.5, order).is_contiguous(memory_format=torch.channels_last)
    history.put("plain", rows, torch.rand(2, 3, 4, 4))
    assert history.at("plain", rows).is_contiguous()
