"""What holds for every latent size, cell, ratio, batch and dtype: drawn examples of the whole path match, cut, merge, unmerge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib_accel import AgentAttention
from lib_accel.methods.planning import cut_for
from lib_accel.ops.levels import grid_at, level_of
from lib_accel.ops.matching import match_tokens, random_offsets
from lib_accel.ops.merging import MergePlan

DTYPES = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float64: 1e-12}
EXAMPLES = settings(max_examples=100)


@dataclass(frozen=True)
class Problem:
    """A grid, how it is cut, and random tokens for it."""

    h: int
    w: int
    sx: int
    sy: int
    ratio: float
    agent_ratio: float
    batch: int
    dtype: torch.dtype
    step: int | None
    seed: int

    def tokens(self, dtype=None, channels=4):
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(self.batch, self.h * self.w, channels, generator=generator).to(dtype or self.dtype)

    def cut(self):
        return cut_for(self.h, self.w, AgentAttention(ratio=self.ratio, agent_ratio=self.agent_ratio, sx=self.sx, sy=self.sy))

    def match(self, x):
        offsets = None if self.step is None else random_offsets(self.h, self.w, self.sx, self.sy, self.step, 0)
        return match_tokens(x, self.h, self.w, self.sx, self.sy, offsets)

    def slots(self, x):
        """Slots of the merged tokens, or None when there is nothing to merge."""
        merged = self.cut().merged
        return self.match(x).slots(merged) if merged else None


@st.composite
def problems(draw, levels=(0, 1, 2), dtypes=tuple(DTYPES), largest=160):
    """Latent sides of 8 to 160, halved as a U-Net's levels halve them: small grids are the rule, large ones occur."""
    h, w = grid_at(draw(st.integers(8, largest)), draw(st.integers(8, largest)), draw(st.sampled_from(levels)))
    ratios = st.one_of(st.sampled_from([0.0, 0.4, 0.5, 0.75, 1.0]), st.floats(0, 1))
    # One large grid in the batch is enough; the scores of 160x160 alone are 122 million.
    batch = draw(st.integers(1, 3)) if h * w <= 3000 else 1
    return Problem(
        h,
        w,
        sx=draw(st.integers(2 if h * w > 10_000 else 1, 8)),
        sy=draw(st.integers(2 if h * w > 10_000 else 1, 8)),
        ratio=draw(ratios),
        agent_ratio=draw(ratios),
        batch=batch,
        dtype=draw(st.sampled_from(dtypes)),
        step=draw(st.none() | st.integers(0, 999)),
        seed=draw(st.integers(0, 2**31)),
    )


@given(problems())
@EXAMPLES
def test_counts(p):
    cut = p.cut()
    cells = (p.h // p.sy) * (p.w // p.sx)
    sources = p.h * p.w - cells if cells else 0
    assert cut.tokens == p.h * p.w
    assert cut.merged == min(int(p.h * p.w * p.ratio), sources)
    assert cut.nothing == (cut.merged == 0 and cut.agents_gone is None)
    if cut.agents_gone is not None:
        assert 0 < cut.agents_gone <= sources
        assert 2 * (cut.tokens - cut.agents_gone) < cut.tokens - cut.merged
        assert cut.why_no_agents is None
    else:
        assert cut.why_no_agents


@given(problems())
@EXAMPLES
def test_every_token_is_represented_once(p):
    """Every position has a slot, every slot a position, and merging as many as can be merged leaves the destinations."""
    x = p.tokens()
    match = p.match(x)
    if match is None:
        assert p.cut().nothing
        return
    sources = match.sources.numel()
    assert torch.equal(torch.cat([match.sources, match.destinations]).sort().values, torch.arange(p.h * p.w))
    assert torch.equal(match.order.sort(dim=1).values, torch.arange(sources).repeat(p.batch, 1))
    for gone in {0, p.cut().merged, sources}:
        slots = match.slots(gone)
        count = p.h * p.w - gone
        assert slots.shape == (p.batch, p.h * p.w)
        assert all(torch.equal(row.unique(), torch.arange(count)) for row in slots)
    cells = match.destinations.numel()
    assert torch.equal(match.slots(sources).gather(1, match.destinations.repeat(p.batch, 1)), torch.arange(cells).repeat(p.batch, 1))


LARGEST = Problem(160, 160, 2, 2, 0.5, 0.8, 1, torch.float32, step=3, seed=0)


@given(problems())
@example(LARGEST)
@EXAMPLES
def test_a_round_trip(p):
    """Shapes, finiteness, kept tokens bit for bit, means of merged ones as in float64, and the same result twice."""
    x, y = p.tokens(), p.tokens(channels=3) * 100
    slots = p.slots(x)
    if slots is None:
        return
    count = p.h * p.w - p.cut().merged
    plan = MergePlan(slots, count)
    merged = plan.merge(y)
    back = plan.unmerge(merged)
    assert merged.shape == (p.batch, count, 3) and back.shape == y.shape
    assert merged.dtype == back.dtype == y.dtype
    assert back.isfinite().all()

    members = torch.zeros(p.batch, count).scatter_add_(1, slots, torch.ones(slots.shape))
    alone = members.gather(1, slots) == 1
    assert torch.equal(back[alone], y[alone])

    wide = slots[..., None].expand(y.shape)
    sums = torch.zeros(p.batch, count, 3, dtype=torch.float64).scatter_add_(1, wide, y.double())
    tolerance = DTYPES[p.dtype]
    torch.testing.assert_close(merged.double(), sums / members[..., None], rtol=tolerance, atol=100 * tolerance)

    again = MergePlan(p.slots(x), count)
    assert torch.equal(again.slots, slots)
    assert torch.equal(again.merge(y), merged)


@given(problems(levels=(1, 2), dtypes=(torch.float64,), largest=96))
@EXAMPLES
def test_a_row_does_not_depend_on_its_neighbours(p):
    x = p.tokens()
    together = p.slots(x)
    if together is not None:
        assert all(torch.equal(p.slots(x[i : i + 1])[0], together[i]) for i in range(p.batch))


@given(problems(levels=(1, 2), dtypes=(torch.float16, torch.bfloat16), largest=96))
@EXAMPLES
def test_the_plan_of_half_precision_tokens_is_that_of_the_same_numbers_in_float32(p):
    x = p.tokens()
    half, single = p.slots(x), p.slots(x.float())
    assert half is single is None or torch.equal(half, single)


@given(problems(levels=(1, 2), dtypes=(torch.float64,), largest=64))
@EXAMPLES
def test_length_does_not_matter(p):
    """Similarity is of directions; powers of two are exact."""
    x = p.tokens()
    assert p.slots(x) is None or torch.equal(p.slots(x), p.slots(x * 2.0**-7))


SPOILERS = {
    "zeros": lambda x: x * 0,
    "some zeros": lambda x: x * (torch.arange(x.shape[1]) % 3 > 0)[:, None],
    "all equal": lambda x: torch.ones_like(x),
    "huge": lambda x: (x * 1e6).clamp(-6e4, 6e4),
    "tiny": lambda x: x * 6e-8,
}


@given(problems(levels=(1, 2, 3), largest=96), st.sampled_from(sorted(SPOILERS)))
@EXAMPLES
def test_awkward_values(p, kind):
    x = SPOILERS[kind](p.tokens().double()).to(p.dtype)
    slots = p.slots(x)
    if slots is None:
        return
    merged = MergePlan(slots, p.h * p.w - p.cut().merged).merge(x)
    assert merged.isfinite().all()
    assert merged.abs().max() <= x.abs().max() * (1 + 1e-5)


@given(problems(levels=(1, 2), largest=64), st.sampled_from([float("nan"), float("inf"), float("-inf")]), st.data())
@EXAMPLES
def test_a_bad_token_does_not_crash_and_stays_in_its_row(p, bad, data):
    x = p.tokens()
    good = p.slots(x)
    x[0, data.draw(st.integers(0, p.h * p.w - 1))] = bad
    slots = p.slots(x)
    if slots is None:
        return
    count = p.h * p.w - p.cut().merged
    assert all(torch.equal(row.unique(), torch.arange(count)) for row in slots)
    assert MergePlan(slots, count).merge(x)[1:].isfinite().all()
    if p.dtype == torch.float64:
        assert torch.equal(slots[1:], good[1:])


@given(st.integers(8, 160), st.integers(8, 160), st.integers(0, 3))
@settings(max_examples=300)
def test_levels(h, w, level):
    grid = grid_at(h, w, level)
    found = level_of(grid[0] * grid[1], h, w)
    assert grid_at(h, w, found) == grid
    assert found == level
