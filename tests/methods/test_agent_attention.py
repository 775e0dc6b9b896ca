"""Agent attention inside LDM's own attention layer, armed by the accelerator: golden data of AgentSD with the agents given."""

from dataclasses import dataclass

import guided
import pytest
import torch
from blocks import BlockUNet
from golden import Golden
from models import need

from lib_accel import AgentAttention, HostTraits, accelerated
from lib_accel.methods.planning import Cut, TokenPlan
from lib_accel.ops.agents import agents_pay

GOLDEN = Golden("agent_attention/cross_attention")
FLOAT32 = GOLDEN.cases_with("out")
GRIDS = {48: (6, 8), 39: (3, 13)}


class _Given:
    """Stands where a plan's agents stand: the agents do not depend on the tokens."""

    def __init__(self, agents):
        self.agents = agents

    def merge(self, _):
        return self.agents


class _GivenPlans:
    """A planner whose every plan has the given agents and merges nothing."""

    def __init__(self, agents):
        self.agents = agents

    def reset(self):
        pass

    def prepare(self, call, site, x):
        pass

    def plan_for(self, call, site):
        h, w = call.grids[site]
        pays = self.agents is not None and agents_pay(self.agents.shape[1], h * w)
        return TokenPlan(Cut(h * w, 0, 0 if pays else None), agents=_Given(self.agents) if pays else None)


@dataclass(frozen=True)
class GivenAgents(AgentAttention):
    """Agent attention with agents that the test gives."""

    agents: torch.Tensor | None = None

    def runner(self):
        runner = super().runner()
        runner.planner = _GivenPlans(self.agents)
        return runner


def unet_of(case, data, forward, part="attn1"):
    """A U-Net whose block does nothing but ``forward(layer, x)``, where layer is its ``part`` with the golden weights."""
    unet = BlockUNet(channels=case["dim"], heads=case["heads"]).to(data["x"].dtype)
    fine, coarse = (stage[-1].transformer_blocks[0] for stage in unet.input_blocks)
    layer = getattr(fine, part)
    layer.load_state_dict({name.removeprefix("w."): t for name, t in data.items() if name.startswith("w.")})
    fine._forward = lambda x, context=None: forward(layer, x)
    coarse._forward = lambda x, context=None: x
    return unet, layer


def run(unet, data, *methods, traits=None):
    """(the block's output on the golden input, report)"""
    latents = data["x"].transpose(1, 2).unflatten(2, GRIDS[data["x"].shape[1]])
    with accelerated(unet, *methods, traits=traits) as accelerator:
        out = unet.block_output(latents, None)
    return out, accelerator.report().as_dict()


def call_layer(case, data, *methods, part="attn1", traits=None, **keywords):
    """(output of ``part`` when it is called with ``keywords``, report)"""
    unet, _ = unet_of(case, data, lambda layer, x: layer(x, **keywords), part)
    return run(unet, data, *methods, traits=traits)


def method_of(case, data, **params):
    return GivenAgents(
        k_scale2=case["k_scale2"],
        k_shortcut=case["k_shortcut"],
        attn_precision=case.get("attn_precision"),
        agents=data.get("agent"),
        window=(0, 1),
        **params,
    )


@pytest.mark.parametrize("case", [c for c in FLOAT32 if not c["context_dim"] and not c["mask"]], ids=lambda c: c["name"])
def test_golden(case):
    data = GOLDEN.of(case["name"])
    out, report = call_layer(case, data, method_of(case, data))
    torch.testing.assert_close(out, data["out"], rtol=0, atol=2e-5)
    assert ("agents" in report["methods"][0]["layers_by_effect"]) == case["agent_path_taken"]


@pytest.mark.parametrize("name", ["self_mask_ignored_in_agent_path"])
def test_a_mask_makes_it_the_layers_own_attention(name):
    """The official code ignores the mask here."""
    case = next(c for c in FLOAT32 if c["name"] == name)
    data = GOLDEN.of(name)
    out, report = call_layer(case, data, method_of(case, data), mask=data["mask"])
    torch.testing.assert_close(out, data["out_plain"], rtol=0, atol=2e-5)
    assert guided.layers_why(report["methods"][0]) == {"mask": 1}


def test_a_masked_text_attention_is_the_layers_own():
    case = next(c for c in FLOAT32 if c["name"] == "cross_agent_none_mask")
    data = GOLDEN.of(case["name"])
    method = method_of(case, data, merge_crossattn=True)
    out, report = call_layer(case, data, method, part="attn2", context=data["context"], mask=data["mask"])
    torch.testing.assert_close(out, data["out"], rtol=0, atol=2e-5)
    # Self-attention is not called here.
    assert guided.layers_why(report["methods"][0]) == {"mask": 1, "unreached": 1}


SELF = next(c for c in FLOAT32 if c["name"] == "self_d8")


def test_a_context_makes_it_the_layers_own_attention():
    """``disable_self_attn`` and hosts that lend keys and values: agents need keys of the same tokens."""
    data = GOLDEN.of("self_d8")
    context = data["x"][:, :7] + 1
    out, report = call_layer(SELF, data, method_of(SELF, data), context=context)
    plain, _ = call_layer(SELF, data, context=context)
    assert torch.equal(out, plain)
    assert guided.layers_why(report["methods"][0]) == {"context": 1}


def test_context_that_is_the_input_itself():
    data = GOLDEN.of("self_d8")
    unet, _ = unet_of(SELF, data, lambda layer, x: layer(x, x))
    out, _ = run(unet, data, method_of(SELF, data))
    torch.testing.assert_close(out, data["out"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("precision", [None, "fp32"])
def test_half_precision(precision):
    """The official code raises with the flag and without autocast."""
    case = next(c for c in GOLDEN.cases if c["name"] == "half_normal")
    data = GOLDEN.of("half_normal")
    need(torch.float16)
    out, _ = call_layer(case, data, method_of({**case, "attn_precision": precision}, data))
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), data["out_fp32_reference"], rtol=2e-2, atol=1e-3)


class _Loud(HostTraits):
    """A hypernetwork that doubles what to_v sees, and a host that wants float32."""

    def __init__(self):
        self.asked = 0

    def kv_inputs(self, attn, context):
        return context, 2 * context

    def upcast(self, attn):
        self.asked += 1
        return True


def test_host_traits_act():
    data = GOLDEN.of("self_d8")
    out, _ = call_layer(SELF, data, method_of(SELF, data), traits=(traits := _Loud()))
    bias = data["w.to_out.0.bias"]
    torch.testing.assert_close(out - bias, 2 * (data["out"] - bias), rtol=0, atol=4e-5)
    assert traits.asked == 1


def test_hooks_on_projections_act():
    """LoRA and the like: projections are called as modules."""
    data = GOLDEN.of("self_d8")
    unet, layer = unet_of(SELF, data, lambda layer, x: layer(x))
    calls = []
    for name in ("to_q", "to_k", "to_v", "to_out"):
        getattr(layer, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    run(unet, data, method_of(SELF, data))
    assert sorted(calls) == ["to_k", "to_out", "to_q", "to_q", "to_v"]
