"""Agent attention: golden data of AgentSD on LDM's attention layer, and a materialised float64 reference."""

import pytest
import torch
from golden import Golden
from models import need

from lib_accel.ops.agents import agent_attention, agents_pay

GOLDEN = Golden("agent_attention/cross_attention")
TAKEN = [c for c in GOLDEN.cases if c.get("agent_path_taken", True) and not c.get("mask")]


def heads_of(tokens, heads):
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(case, data, **options):
    """The layer's output by the golden weights and `agent_attention`."""
    w = {name.removeprefix("w."): t for name, t in data.items() if name.startswith("w.")}
    x, agents = data["x"], data["agent"]
    q, k, v, a = (
        heads_of(torch.nn.functional.linear(tokens, w[f"to_{p}.weight"]), case["heads"])
        for tokens, p in ((x, "q"), (x, "k"), (x, "v"), (agents, "q"))
    )
    out = agent_attention(q, k, v, a, case["dim_head"] ** -0.5, case["k_scale2"], case["k_shortcut"], **options)
    return torch.nn.functional.linear(out.transpose(1, 2).flatten(2), w["to_out.0.weight"], w["to_out.0.bias"])


@pytest.mark.parametrize("case", TAKEN, ids=lambda c: c["name"])
def test_golden(case):
    data = GOLDEN.of(case["name"])
    need(data["x"].dtype)
    expected = data["out"] if "out" in data else data["out_fp32_reference"]
    tolerance = 2e-5 if expected.dtype == data["x"].dtype else 1e-3
    out = attend(case, data, fp32=case.get("attn_precision") == "fp32")
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=tolerance)


def test_fp32_flag_on_half_tensors():
    """The official code raises here; the flag brings the result no further from the float32 reference than without."""
    case = next(c for c in GOLDEN.cases if c["name"] == "half_normal")
    data = GOLDEN.of("half_normal")
    need(torch.float16)
    out = attend(case, data, fp32=True)
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), data["out_fp32_reference"], rtol=2e-2, atol=5e-4)


def test_fp32_flag_in_float32_changes_nothing():
    one, other = (GOLDEN.of(name)["out"] for name in ("self_d8", "self_d8_fp32flag"))
    assert torch.equal(one, other)
    case = next(c for c in GOLDEN.cases if c["name"] == "self_d8")
    assert torch.equal(attend(case, GOLDEN.of("self_d8"), fp32=True), attend(case, GOLDEN.of("self_d8")))


@pytest.mark.parametrize("case", [c for c in GOLDEN.cases if c.get("N") and c.get("n_agent")], ids=lambda c: c["name"])
def test_the_published_rule(case):
    assert agents_pay(case["n_agent"], case["N"]) == case.get("agent_path_taken", True)


def test_exactly_half_does_not_pay():
    assert agents_pay(23, 48)
    assert not agents_pay(24, 48)
    assert not agents_pay(24, 47)


def materialised(q, k, v, a, scale, k_scale2, k_shortcut):
    """The definition, both maps written out, in float64."""
    q, k, v, a = (t.double() for t in (q, k, v, a))
    gathered = (scale * a @ k.transpose(-1, -2)).softmax(-1) @ v
    return (scale**k_scale2 * q @ a.transpose(-1, -2)).softmax(-1) @ gathered + k_shortcut * v


def random_heads(dtype=torch.float32, batch=2, heads=3, tokens=40, agents=9, d=8, size=1.0):
    generator = torch.Generator().manual_seed(tokens * agents)
    shapes = [(batch, heads, tokens, d)] * 3 + [(batch, heads, agents, d)]
    return [size * torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("k_scale2, k_shortcut", [(0.3, 0.075), (0.0, 0.0), (1.0, 0.5), (-0.5, 0.075)])
@pytest.mark.parametrize("agents", [1, 9, 40])
def test_against_the_definition(agents, k_scale2, k_shortcut):
    q, k, v, a = random_heads(agents=agents)
    out = agent_attention(q, k, v, a, 8**-0.5, k_scale2, k_shortcut)
    torch.testing.assert_close(out.double(), materialised(q, k, v, a, 8**-0.5, k_scale2, k_shortcut), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("fp32", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
def test_in_every_dtype(dtype, tolerance, fp32):
    need(dtype)
    given = random_heads(dtype)
    out = agent_attention(*given, 8**-0.5, fp32=fp32)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), materialised(*given, 8**-0.5, 0.3, 0.075), rtol=tolerance, atol=tolerance)


def test_scores_beyond_half_precision():
    """Queries and keys as in SD2.1: their products overflow float16, the result must not."""
    given = random_heads(torch.float16, size=300.0)
    q, k = given[0].float(), given[1].float()
    assert (q @ k.transpose(-1, -2)).abs().max() > torch.finfo(torch.float16).max
    out = agent_attention(*given, 8**-0.5, fp32=True)
    reference = agent_attention(*(t.float() for t in given), 8**-0.5)
    assert out.isfinite().all()
    torch.testing.assert_close(out.float(), reference, rtol=2e-2, atol=1e-2)


def test_fp32_holds_under_autocast():
    given = random_heads(torch.bfloat16, size=30.0)
    expected = agent_attention(*given, 8**-0.5, fp32=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(agent_attention(*given, 8**-0.5, fp32=True), expected)


def test_a_device_that_autocast_does_not_know(monkeypatch):
    def unknown(*_, **__):
        raise RuntimeError("User specified an unsupported autocast device_type 'mps'")

    given = random_heads(torch.float16)
    expected = agent_attention(*given, 8**-0.5, fp32=True)
    monkeypatch.setattr(torch, "autocast", unknown)
    assert torch.equal(agent_attention(*given, 8**-0.5, fp32=True), expected)


def test_inputs_are_left_alone():
    given = random_heads()
    copies = [t.clone() for t in given]
    agent_attention(*given, 8**-0.5)
    assert all(torch.equal(t, c) for t, c in zip(given, copies))
