"""Which tokens are merged into which: golden data of ToMe for SD and AgentSD, and the destinations of a grid."""

import pytest
import torch
from golden import Golden

from lib_accel.ops.matching import destination_positions, match_tokens, random_offsets

GOLDEN = Golden("token_merging/match2d")


def match_of(case, data):
    return match_tokens(data["x"], case["h"], case["w"], case["sx"], case["sy"], data.get("rand_offset"))


@pytest.mark.parametrize("case", GOLDEN.cases, ids=lambda c: c["name"])
def test_destinations_and_sources(case):
    data = GOLDEN.of(case["name"])
    match = match_of(case, data)
    assert torch.equal(match.destinations, data["dst_index"].sort().values)
    assert torch.equal(match.sources, data["src_index"].sort().values)


def with_both(tensor):
    """(case, prefix) for the merged tokens and, where there are some, the agents."""
    pairs = [(case, prefix) for prefix in ("", "agent_") for case in GOLDEN.cases_with(prefix + tensor)]
    return pytest.mark.parametrize("case, prefix", pairs, ids=[f"{prefix}{case['name']}" for case, prefix in pairs])


@pytest.mark.parametrize("kind", ["merged", "agent"])
@pytest.mark.parametrize("case", GOLDEN.cases_with("merged_anchor_positions"), ids=lambda c: c["name"])
def test_who_stays(case, kind):
    data = GOLDEN.of(case["name"])
    if kind == "agent" and case["n_agent"] is None:
        assert "agent" not in data
        return
    anchors = data[f"{kind}_anchor_positions"].sort(dim=1).values
    batch, count = anchors.shape
    slots = match_of(case, data).slots(case["N"] - count)
    assert torch.equal(slots.gather(1, anchors), torch.arange(count).repeat(batch, 1))
    assert slots.min() == 0 and slots.max() == count - 1


@with_both("merged_positions")
def test_who_goes_where(case, prefix):
    data = GOLDEN.of(case["name"])
    gone, into = data[f"{prefix}merged_positions"], data[f"{prefix}merged_into_positions"]
    slots = match_of(case, data).slots(gone.shape[1])
    assert torch.equal(slots.gather(1, gone), slots.gather(1, into))


@pytest.mark.parametrize("case", [c for c in GOLDEN.cases if "min_order_gap" in c], ids=lambda c: c["name"])
def test_order_of_similarity(case):
    """The golden order is by decreasing similarity; gaps below float32's resolution may be ordered either way."""
    data = GOLDEN.of(case["name"])
    match = match_of(case, data)
    ours, theirs = match.sources[match.order], data["merged_positions"]
    if case["min_order_gap"] > 2e-6:
        assert torch.equal(ours[:, : theirs.shape[1]], theirs)
    else:
        assert torch.equal(ours[:, : theirs.shape[1]].sort().values, theirs.sort().values)


def test_incomplete_cells_hold_no_destination():
    assert destination_positions(5, 7, sx=3, sy=2).tolist() == [0, 3, 14, 17]


def test_offsets_choose_inside_the_cell():
    offsets = torch.tensor([[0, 5], [3, 2]])
    # Offset o is row o // 3, column o % 3 of its cell of 3 columns and 2 rows.
    assert destination_positions(4, 6, sx=3, sy=2, offsets=offsets).tolist() == [0, 6 + 5, 12 + 5, 18]


@pytest.mark.parametrize("h, w, sx, sy", [(3, 16, 4, 4), (16, 3, 4, 4), (1, 1, 2, 2), (4, 4, 1, 1)])
def test_nothing_to_match(h, w, sx, sy):
    """A grid smaller than one cell has no destination; cells of one token leave no source."""
    assert match_tokens(torch.randn(2, h * w, 4), h, w, sx, sy) is None


def test_random_offsets_depend_on_step_and_level_alone():
    before = torch.get_rng_state()
    one = random_offsets(16, 16, 4, 4, step=3, level=1)
    torch.manual_seed(99)
    assert torch.equal(one, random_offsets(16, 16, 4, 4, step=3, level=1))
    assert not torch.equal(one, random_offsets(16, 16, 4, 4, step=4, level=1))
    assert not torch.equal(one, random_offsets(16, 16, 4, 4, step=3, level=2))
    assert one.shape == (4, 4) and one.min() >= 0 and one.max() < 16
    torch.set_rng_state(before)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    random_offsets(16, 16, 2, 2, step=0, level=0)
    match_tokens(torch.ones(1, 256, 4), 16, 16, 2, 2)
    assert torch.equal(before, torch.get_rng_state())


def test_equal_similarities_are_taken_in_grid_order():
    """All tokens equal: a stable order, so the same picture on every device."""
    match = match_tokens(torch.ones(1, 64, 4), 8, 8, 2, 2)
    assert torch.equal(match.order[0], torch.arange(48))
    assert match.best.eq(0).all()


def test_the_callers_default_device_does_not_matter():
    """People set a default device; positions are worked out on the CPU whatever it is."""
    with torch.device("meta"):
        assert destination_positions(4, 4, 2, 2).tolist() == [0, 2, 8, 10]
        assert random_offsets(4, 4, 2, 2, step=0, level=0).device.type == "cpu"


def test_scores_in_chunks_match_scores_at_once(monkeypatch):
    x = torch.randn(2, 20 * 20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = match_tokens(x, 20, 20, 2, 2)
    monkeypatch.setattr("lib_accel.ops.matching._SCORE_BYTES", {"cpu": 1})
    parts = match_tokens(x, 20, 20, 2, 2)
    assert torch.equal(whole.best, parts.best)
    assert torch.equal(whole.order, parts.order)


def test_similarity_is_taken_in_float32_under_autocast():
    """Half precision scores tie by the thousand."""
    x = torch.randn(2, 16 * 16, 8, generator=torch.Generator().manual_seed(2))
    expected = match_tokens(x, 16, 16, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        match = match_tokens(x, 16, 16, 2, 2)
    assert torch.equal(match.best, expected.best)
    assert torch.equal(match.order, expected.order)
