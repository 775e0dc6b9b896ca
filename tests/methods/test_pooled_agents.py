"""Agents as means of cells: no matching, the same attention."""

import pytest
import torch
from models import BOTH, UNETS, call, inputs

from lib_accel import AgentAttention, accelerated
from lib_accel.methods import planning
from lib_accel.methods.planning import cut_for
from lib_accel.ops.downsampling import GridPool


@pytest.mark.parametrize("name", BOTH)
def test_agents_alone_need_no_matching(name, monkeypatch):
    monkeypatch.setattr(planning, "match_tokens", None)
    unet = UNETS[name]()
    plain = call(unet)
    with accelerated(unet, AgentAttention(ratio=0, agents="pool", window=(0, 1))) as accelerator:
        assert not torch.equal(call(unet), plain)
    assert accelerator.report().as_dict()["methods"][0]["layers_by_effect"] == {"agents": 3}
    assert torch.equal(call(unet), plain)


def test_merging_goes_on_beside_pooled_agents():
    unet = UNETS["ldm"]()
    with accelerated(unet, AgentAttention(agents="pool", window=(0, 1))) as accelerator:
        call(unet)
    assert accelerator.report().as_dict()["methods"][0]["layers_by_effect"] == {"agents": 3, "merging": 3}


def test_the_agents_are_the_means_of_the_cells(monkeypatch):
    seen = []
    merge = GridPool.merge
    monkeypatch.setattr(GridPool, "merge", lambda self, y: seen.append((y, merge(self, y))) or seen[-1][1])
    unet = UNETS["ldm"]()
    with accelerated(unet, AgentAttention(ratio=0, agents="pool", sx=4, sy=2, window=(0, 1))):
        call(unet, inputs(h=8, w=16))
    tokens, agents = seen[0]
    expected = tokens.unflatten(1, (4, 2, 4, 4)).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(agents, expected)


def test_cells_and_not_the_ratio_say_how_many_agents_there_are():
    cut = cut_for(9, 10, AgentAttention(ratio=0, agent_ratio=0.1, agents="pool", sx=4, sy=4))
    assert cut.tokens - cut.agents_gone == 3 * 3
    assert cut_for(8, 8, AgentAttention(ratio=0, agents="pool", sx=1, sy=2)).agents_gone is None, "half of the tokens are too many"
