"""How plans are cut, shared by a level, and kept: per row, for so many steps, until a pass or a size changes."""

import dataclasses

import guided
import pytest
import torch
from blocks import BlockUNet
from golden import Golden

from lib_accel import AgentAttention, HostTraits, Row, TokenMerging, accelerated
from lib_accel.backends import backend_for
from lib_accel.core.rows import Layout
from lib_accel.core.schedule import Step
from lib_accel.core.sites import Site
from lib_accel.engine.contract import UNetCall
from lib_accel.methods import planning
from lib_accel.methods.planning import Planner, cut_for

COND, UNCOND = Layout([Row("cond", 0), Row("cond", 1)]), Layout([Row("uncond", 0), Row("uncond", 1)])
UNET = BlockUNet(depth=2)


@pytest.fixture
def matches(monkeypatch):
    """Counts the matchings: (grid h, grid w, rows) of each."""
    seen = []
    match = planning.match_tokens

    def counted(x, h, w, *rest):
        seen.append((h, w, x.shape[0]))
        return match(x, h, w, *rest)

    monkeypatch.setattr(planning, "match_tokens", counted)
    return seen


# -- the cut ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", Golden("token_merging/match2d").cases, ids=lambda c: c["name"])
def test_golden_cuts(case):
    cut = cut_for(case["h"], case["w"], AgentAttention(**{k: case[k] for k in ("ratio", "agent_ratio", "sx", "sy")}))
    assert cut.tokens - cut.merged == case["n_merged"]
    assert (None if cut.agents_gone is None else cut.tokens - cut.agents_gone) == case["n_agent"]


@pytest.mark.parametrize("h, w", [(64, 64), (32, 48), (128, 96), (8, 160)])
def test_published_defaults_never_use_agents_on_even_sides(h, w):
    cut = cut_for(h, w, AgentAttention(ratio=0.5, agent_ratio=0.8, sx=2, sy=2))
    assert cut.agents_gone is None and "no agents" in cut.why_no_agents


def test_published_defaults_use_agents_on_odd_sides():
    """520 pixels: the last row and column hold no destination, so the agents are just fewer than half. AgentSD does the same."""
    cut = cut_for(65, 65, AgentAttention(ratio=0.5, agent_ratio=0.8, sx=2, sy=2))
    assert (cut.tokens - cut.agents_gone, cut.tokens - cut.merged) == (1024, 2113)


def test_own_defaults_use_256_agents_at_64x64():
    cut = cut_for(64, 64, AgentAttention())
    assert cut.tokens - cut.agents_gone == 256
    assert cut.merged == 1638


@pytest.mark.parametrize("config", [TokenMerging(ratio=1), AgentAttention(ratio=1, agent_ratio=1, sx=2, sy=2)])
@pytest.mark.parametrize("h, w", [(1, 1), (1, 100), (100, 1)])
def test_a_grid_smaller_than_a_cell_is_not_cut(config, h, w):
    assert cut_for(h, w, config).nothing


# -- one U-Net call --------------------------------------------------------------------------------------------------------


def run(unet, accelerator, sizes=(8, 8), rows=2, timestep=500.0):
    latents = torch.randn(rows, 32, *sizes, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        unet(latents, torch.full((rows,), timestep), torch.ones(rows, 7, 24))


@pytest.mark.parametrize(
    "plan, max_downsample, expected",
    [
        ("level", 1, [(8, 8, 2)]),
        ("level", 2, [(8, 8, 2), (4, 4, 2)]),
        ("block", 1, [(8, 8, 2)] * 2),
        ("block", 2, [(8, 8, 2)] * 2 + [(4, 4, 2)] * 2),
    ],
)
@pytest.mark.parametrize("method", [TokenMerging, AgentAttention])
def test_matchings_per_call(matches, method, plan, max_downsample, expected):
    """Two blocks a level: they share one plan, or have one each."""
    settings = method(plan=plan, max_downsample=max_downsample, sx=2, sy=2, merge_crossattn=True, merge_mlp=True)
    with accelerated(UNET, settings) as accelerator:
        run(UNET, accelerator)
    assert matches == expected


def test_a_shared_plan_is_that_of_the_first_block():
    """With one block a level, sharing changes nothing; with two, only the second block differs."""
    outputs = {}
    for plan in ("level", "block"):
        with accelerated(UNET, TokenMerging(plan=plan)) as accelerator:
            run(UNET, accelerator, sizes=(16, 16))
        outputs[plan] = [UNET.seen[f"input_blocks.0.0.transformer_blocks.{i}"] for i in (0, 1)]
    assert torch.equal(outputs["level"][0], outputs["block"][0])
    assert not torch.equal(outputs["level"][1], outputs["block"][1])


def test_nothing_to_merge_is_not_matched(matches):
    with accelerated(UNET, TokenMerging(sx=8, sy=8, ratio=1.0)) as accelerator:
        run(UNET, accelerator, sizes=(7, 40))
    assert matches == []
    assert guided.layers_why(accelerator.report().as_dict()["methods"][0]) == {("nothing_to_merge", 7, 40): 2}


def test_the_global_generators_are_left_alone():
    before = torch.get_rng_state()
    with accelerated(UNET, TokenMerging(use_rand=True)) as accelerator:
        latents = torch.ones(2, 32, 8, 8)
        with torch.no_grad():
            UNET(latents, torch.zeros(2), torch.ones(2, 7, 24))
    assert accelerator.report().as_dict()["methods"][0]["layers"]
    assert torch.equal(before, torch.get_rng_state())


# -- several steps ---------------------------------------------------------------------------------------------------------


class Bench:
    """A planner driven without a U-Net: ``at`` prepares a plan for one call and returns its slots."""

    def __init__(self, **settings):
        self.planner = Planner(TokenMerging(**settings))
        transformer = UNET.input_blocks[0][0]
        self.site = Site.of("site", 0, "down", transformer, transformer.transformer_blocks[0])

    def at(self, step, rows, x=None, grid=(8, 8), site=None):
        site = site or self.site
        if x is None:
            x = torch.randn(len(rows), grid[0] * grid[1], 4)
        call = UNetCall(backend_for(UNET), HostTraits(), Step(step, 50, step / 50, "host"), rows, (1, step))
        call.grids[site] = grid
        self.planner.prepare(call, site, x)
        return self.planner.plan_for(call, site).merging.slots


def steps_with_matching(bench, matches, steps, layouts):
    """Steps at which each layout's call matched anew."""
    found = []
    for step in steps:
        for layout in layouts:
            before = len(matches)
            bench.at(step, layout)
            if len(matches) > before:
                found.append((step, layouts.index(layout)))
    return found


@pytest.mark.parametrize("every, expected", [(1, [0, 1, 2, 3, 4, 5, 6]), (2, [0, 2, 4, 6]), (3, [0, 3, 6]), (100, [0])])
def test_plan_every(matches, every, expected):
    bench = Bench(plan_every=every)
    assert [step for step, _ in steps_with_matching(bench, matches, range(7), [COND])] == expected


@pytest.mark.parametrize("layouts", [[COND, UNCOND], [Layout.unknown(2), Layout.unknown(2, offset=2)]])
def test_separate_calls_agree_with_one(matches, layouts):
    """Conditional and unconditional rows in two calls of a step: each matched when due, never taken for each other."""
    bench = Bench(plan_every=3)
    assert steps_with_matching(bench, matches, range(7), layouts) == [(step, i) for step in (0, 3, 6) for i in (0, 1)]

    x = torch.randn(4, 64, 4)
    together, apart = Bench(plan_every=3), Bench(plan_every=3)
    one = together.at(0, Layout([*layouts[0], *layouts[1]]), x)
    two = [apart.at(0, layouts[0], x[:2]), apart.at(0, layouts[1], x[2:])]
    assert torch.equal(one, torch.cat(two))
    # Kept rows are found again however the host splits the batch next time.
    assert torch.equal(apart.at(1, Layout([*layouts[1], *layouts[0]])), torch.cat(two[::-1]))
    assert torch.equal(together.at(1, layouts[1]), two[1])


def test_the_same_rows_again_at_the_same_step(matches):
    """A second evaluation of a step has other latents."""
    bench = Bench(plan_every=5)
    for _ in range(2):
        bench.at(0, COND)
    assert len(matches) == 2
    bench.at(1, COND)
    assert len(matches) == 2


def test_an_absent_row_grows_old_all_the_same(matches):
    """The conditional rows' new plan must not make the unconditional rows' old one look young."""
    bench = Bench(plan_every=3)
    bench.at(0, COND)
    bench.at(0, UNCOND)
    bench.at(3, COND)
    assert len(matches) == 3
    bench.at(4, UNCOND)
    assert len(matches) == 4
    bench.at(5, COND)
    assert len(matches) == 4


def test_a_missing_row_is_matched(matches):
    bench = Bench(plan_every=5)
    bench.at(0, COND)
    bench.at(1, Layout([*COND, Row("cond", 2)]))
    assert len(matches) == 2


@pytest.mark.parametrize("change", ["reset", "size", "a step back"])
def test_what_ends_a_plan(matches, change):
    bench = Bench(plan_every=100)
    bench.at(5, COND)
    if change == "reset":
        bench.planner.reset()
    bench.at(4 if change == "a step back" else 6, COND, grid=(4, 16) if change == "size" else (8, 8))
    assert len(matches) == 2


def test_a_new_pass_and_another_size_end_plans(matches):
    with accelerated(UNET, TokenMerging(plan_every=100)) as accelerator:
        for timestep, sizes in [(900, (8, 8)), (800, (8, 8)), (700, (16, 8)), (600, (16, 8)), (900, (16, 8))]:
            run(UNET, accelerator, sizes=sizes, timestep=float(timestep))
    assert matches == [(8, 8, 2), (16, 8, 2), (16, 8, 2)]


@pytest.mark.parametrize("plan", ["level", "block"])
def test_kept_plans_are_a_levels_or_a_blocks(plan):
    bench = Bench(plan_every=100, plan=plan)
    other = dataclasses.replace(bench.site, name="other")
    for site in (bench.site, other):
        bench.at(0, COND, site=site)
    first, second = (bench.at(1, COND, site=site) for site in (bench.site, other))
    assert torch.equal(first, second) == (plan == "level")


def test_random_destinations_are_a_function_of_step_and_level():
    x = torch.randn(2, 64, 4)
    one, other = Bench(use_rand=True), Bench(use_rand=True)
    coarse = dataclasses.replace(one.site, level=1)
    torch.manual_seed(1)
    first = one.at(3, COND, x)
    torch.manual_seed(2)
    assert torch.equal(other.at(3, UNCOND, x), first)
    assert not torch.equal(other.at(4, COND, x), first)
    assert not torch.equal(other.at(3, COND, x, site=coarse), first)
    assert torch.equal(Bench(use_rand=False).at(3, COND, x), Bench(use_rand=False).at(4, COND, x))
