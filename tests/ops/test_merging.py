"""Merge and unmerge: golden data of ToMe for SD and AgentSD, half precision, and the path for devices without embedding_bag."""

import pytest
import torch
from golden import Golden

from lib_accel.ops import merging
from lib_accel.ops.matching import match_tokens
from lib_accel.ops.merging import MergePlan

GOLDEN = Golden("token_merging/match2d")
CASES = pytest.mark.parametrize("case", GOLDEN.cases, ids=lambda c: c["name"])


def plan_of(case, data, count):
    match = match_tokens(data["x"], case["h"], case["w"], case["sx"], case["sy"], data.get("rand_offset"))
    return MergePlan(match.slots(case["N"] - count), count)


def in_grid_order(tokens, anchors):
    """Golden tokens stand in an unspecified order; ours in the order of the positions they stand at."""
    return tokens.gather(1, anchors.argsort(dim=1)[..., None].expand_as(tokens))


@CASES
def test_merge(case):
    data = GOLDEN.of(case["name"])
    plan = plan_of(case, data, case["n_merged"])
    torch.testing.assert_close(plan.merge(data["y"]), in_grid_order(data["merged"], data["merged_anchor_positions"]))


@CASES
def test_round_trip(case):
    data = GOLDEN.of(case["name"])
    plan = plan_of(case, data, case["n_merged"])
    torch.testing.assert_close(plan.unmerge(plan.merge(data["y"])), data["roundtrip"])


@pytest.mark.parametrize("case", GOLDEN.cases_with("z"), ids=lambda c: c["name"])
def test_unmerge_copies_bit_for_bit(case):
    data = GOLDEN.of(case["name"])
    plan = plan_of(case, data, case["n_merged"])
    assert torch.equal(plan.unmerge(in_grid_order(data["z"], data["merged_anchor_positions"])), data["unmerged_z"])


@pytest.mark.parametrize("case", GOLDEN.cases_with("agent"), ids=lambda c: c["name"])
def test_agents(case):
    data = GOLDEN.of(case["name"])
    plan = plan_of(case, data, case["n_agent"])
    torch.testing.assert_close(plan.merge(data["y"]), in_grid_order(data["agent"], data["agent_anchor_positions"]))


def example(dtype=torch.float32, batch=2, tokens=48, count=7, channels=3):
    generator = torch.Generator().manual_seed(tokens + count)
    slots = torch.cat([torch.arange(count).repeat(batch, 1), torch.randint(count, (batch, tokens - count), generator=generator)], 1)
    return slots, torch.randn(batch, tokens, channels, generator=generator).to(dtype)


def reference_mean(slots, y, count):
    """Mean of every slot's tokens, in float64, by a one-hot matrix."""
    members = torch.nn.functional.one_hot(slots, count).double()
    return members.transpose(1, 2) @ y.double() / members.sum(1)[..., None]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-12), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("path", ["_segment_mean", "_segment_mean_by_scan"])
def test_mean_in_every_dtype(monkeypatch, path, dtype, tolerance):
    monkeypatch.setattr(merging, "_segment_mean", getattr(merging, path))
    slots, y = example(dtype)
    merged = MergePlan(slots, 7).merge(y)
    assert merged.dtype == dtype
    torch.testing.assert_close(merged.double(), reference_mean(slots, y, 7), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("path", ["_segment_mean", "_segment_mean_by_scan"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_beyond_half_precision(monkeypatch, path, dtype):
    """32 tokens of 60000 sum to 1.9 million; their mean is 60000 still."""
    monkeypatch.setattr(merging, "_segment_mean", getattr(merging, path))
    y = torch.full((1, 32, 4), 60000.0, dtype=dtype)
    merged = MergePlan(torch.zeros(1, 32, dtype=torch.long), 1).merge(y)
    assert torch.equal(merged, y[:, :1])


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [5], [1, 8, 2, 1], [3, 16, 17, 1, 4]])
def test_the_scan_at_every_segment_length(lengths):
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    order = torch.randperm(owner.numel(), generator=torch.Generator().manual_seed(0))
    rows = torch.randn(owner.numel(), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    expected = torch.stack([rows[order][owner == i].mean(0) for i in range(len(lengths))])
    torch.testing.assert_close(merging._segment_mean_by_scan(rows, order, starts), expected)


def test_the_scan_keeps_a_bad_token_in_its_segment():
    rows = torch.tensor([[1.0], [float("nan")], [3.0], [float("inf")], [5.0]])
    out = merging._segment_mean_by_scan(rows, torch.arange(5), torch.tensor([0, 2, 4]))
    assert out[0].isnan() and out[1].isinf() and out[2] == 5.0


def test_plans_of_any_layout_in_memory():
    slots, y = example()
    strided = torch.stack([slots, slots], 1)[:, 1]
    turned = y.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(MergePlan(strided, 7).merge(turned), MergePlan(slots, 7).merge(y))


def test_unmerge_takes_any_channel_count():
    slots, _ = example()
    assert MergePlan(slots, 7).unmerge(torch.ones(2, 7, 11)).shape == (2, 48, 11)
