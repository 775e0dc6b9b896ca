"""A whole LDM transformer block under token merging and agent attention: golden data of tomesd and AgentSD."""

import pytest
import torch
from blocks import BlockUNet
from golden import Golden

from lib_accel import AgentAttention, TokenMerging, accelerated

GOLDEN = Golden("transformer_block/ldm_block")
DEFAULTS = {"agentsd": {"ratio": 0.5, "agent_ratio": 0.8, "sx": 2, "sy": 2, "window": (0, 1)}, "tomesd": {"ratio": 0.5}}
METHODS = {"agentsd": AgentAttention, "tomesd": TokenMerging}
ODD_OR_FIXED = [c for c in GOLDEN.cases if "official_error" not in c]
WEIGHTS = GOLDEN.of("w")


def method_of(lib, **params):
    return METHODS[lib](**{**DEFAULTS[lib], "plan": "block", **params})


def run(case_input, *methods, down=1):
    """The block's output, and the report."""
    unet = BlockUNet().load_blocks(WEIGHTS)
    data = GOLDEN.of(f"in.{case_input}")
    with accelerated(unet, *methods) as accelerator:
        out = unet.block_output(data["x"], data["context"], level=down - 1)
    return out, accelerator.report().as_dict()


def fixed(params, case_input):
    """The libraries switch randomness off for odd batches; ours is the same for every batch, and is switched off here."""
    if params.get("use_rand"):
        assert int(case_input[1]) % 2
    return {**params, "use_rand": False}


@pytest.mark.parametrize("case", ODD_OR_FIXED, ids=lambda c: c["name"])
def test_golden(case):
    out, _ = run(case["input"], method_of(case["lib"], **fixed(case["params"], case["input"])), down=case["down"])
    expected = GOLDEN.tensors[f"{case['name']}.out"]
    torch.testing.assert_close(out, expected, rtol=0, atol=2e-5)
    # The tolerance would not hide a case in which nothing was done.
    difference = (out - GOLDEN.tensors[case["plain"]]).abs().max().item()
    assert difference == pytest.approx(case["max_abs_diff_vs_plain"], abs=4e-5)


@pytest.mark.parametrize("name", sorted({c["input"] + f".down{c['down']}" for c in GOLDEN.cases}))
def test_plain(name):
    case_input, down = name.split(".down")
    out, _ = run(case_input, down=int(down))
    torch.testing.assert_close(out, GOLDEN.tensors[f"plain.{name}"], rtol=0, atol=2e-5)


def same(one, other):
    torch.testing.assert_close(run("B2_h16_w16", method_of(**one))[0], run("B2_h16_w16", method_of(**other))[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "one, other",
    [
        # The published second stage, the published defaults, and a full ratio: token merging and no more.
        ({"lib": "agentsd", "ratio": 0.4, "agent_ratio": 0.5}, {"lib": "tomesd", "ratio": 0.4}),
        ({"lib": "agentsd", "ratio": 0.5, "agent_ratio": 0.8}, {"lib": "tomesd", "ratio": 0.5}),
        ({"lib": "agentsd", "ratio": 1.0, "agent_ratio": 0.8}, {"lib": "tomesd", "ratio": 0.75}),
        ({"lib": "tomesd", "ratio": 1.0}, {"lib": "tomesd", "ratio": 0.75}),
        ({"lib": "agentsd", "ratio": 0.4, "agent_ratio": 0.0}, {"lib": "tomesd", "ratio": 0.4}),
    ],
)
def test_useful_equalities(one, other):
    same(dict(one, use_rand=False), dict(other, use_rand=False))


@pytest.mark.parametrize("lib, params", [("tomesd", {"ratio": 0.0}), ("agentsd", {"ratio": 0.0, "agent_ratio": 0.0})])
def test_ratio_0_is_plain_bit_for_bit(lib, params):
    assert torch.equal(run("B2_h16_w16", method_of(lib, **params))[0], run("B2_h16_w16")[0])


def test_a_grid_smaller_than_a_cell_is_plain_bit_for_bit():
    """Both libraries raise here."""
    for lib in METHODS:
        out, report = run("B2_h3_w16", method_of(lib, sx=4, sy=4))
        assert torch.equal(out, run("B2_h3_w16")[0])
        assert report["methods"][0]["stood_down"]


def test_a_level_beyond_max_downsample_is_plain_bit_for_bit():
    for lib in METHODS:
        out, _ = run("B2_h17_w22", method_of(lib, max_downsample=1), down=2)
        assert torch.equal(out, run("B2_h17_w22", down=2)[0])
        out, _ = run("B2_h17_w22", method_of(lib, max_downsample=2), down=2)
        assert not torch.equal(out, run("B2_h17_w22", down=2)[0])


def test_max_downsample_counts_from_the_finest_level_with_attention():
    """SDXL has none at full size: 1 would act nowhere."""
    unet = BlockUNet().load_blocks(WEIGHTS)
    unet.input_blocks[0][0].transformer_blocks = torch.nn.ModuleList()
    data = GOLDEN.of("in.B2_h17_w22")
    with accelerated(unet, TokenMerging(max_downsample=1)) as accelerator:
        unet.block_output(data["x"], data["context"], level=1)
    assert accelerator.report().as_dict()["methods"][0]["layers_by_effect"] == {"merging": 1}


def agents_alone(x, agent_tokens):
    """Self-attention of normed tokens ``x`` through given agents, from the definition, in float64."""
    w = {name: t.double() for name, t in WEIGHTS.items()}
    x, agent_tokens = x.double(), agent_tokens.double()

    def heads(tokens, part):
        return (tokens @ w[f"attn1.to_{part}.weight"].T).unflatten(-1, (4, 8)).transpose(1, 2)

    q, k, v, a = heads(x, "q"), heads(x, "k"), heads(x, "v"), heads(agent_tokens, "q")
    scale = 8**-0.5
    gathered = (scale * a @ k.transpose(-1, -2)).softmax(-1) @ v
    out = (scale**0.3 * q @ a.transpose(-1, -2)).softmax(-1) @ gathered + 0.075 * v
    return out.transpose(1, 2).flatten(2) @ w["attn1.to_out.0.weight"].T + w["attn1.to_out.0.bias"]


@pytest.mark.parametrize("size", ["B2_h16_w16", "B3_h16_w16", "B1_h16_w16"])
def test_ratio_0_with_agents_is_agent_attention_on_all_tokens(size):
    """The official code raises here. A cut of 1 in 2x2 cells makes the agents the means of what joins each destination."""
    from lib_accel.ops.matching import match_tokens

    out, report = run(size, method_of("agentsd", ratio=0.0, agent_ratio=0.8, use_rand=False))
    method = report["methods"][0]
    assert method["layers_by_effect"] == {"agents": 1} and not method["failed"]

    data = GOLDEN.of(f"in.{size}")
    x = data["x"].flatten(2).transpose(1, 2)
    block = BlockUNet().load_blocks(WEIGHTS).input_blocks[0][0].transformer_blocks[0]
    with torch.no_grad():
        normed = block.norm1(x)
        members = torch.nn.functional.one_hot(match_tokens(x, 16, 16, 2, 2).slots(192), 64).float()
        agents = members.transpose(1, 2) @ normed / members.sum(1)[..., None]
        x = agents_alone(normed, agents).float() + x
        x = block.attn2(block.norm2(x), context=data["context"]) + x
        x = block.ff(block.norm3(x)) + x
    torch.testing.assert_close(out, x, rtol=0, atol=2e-5)


def test_agents_never_reach_the_text():
    """Both branches merged, agents for one: the official code crashes in the text attention."""
    out, report = run("B2_h16_w16", method_of("agentsd", ratio=0.4, agent_ratio=0.8, merge_crossattn=True, use_rand=False))
    assert out.isfinite().all()
    assert report["methods"][0]["layers_by_effect"] == {"agents": 1, "merging": 1}
    without, _ = run("B2_h16_w16", method_of("agentsd", ratio=0.4, agent_ratio=0.8, use_rand=False))
    assert not torch.equal(out, without)


@pytest.mark.parametrize("lib", METHODS)
def test_random_destinations(lib):
    """Official patterns come from their own generator; ours are the same for the same step, and are used."""
    params = {"ratio": 0.4, "agent_ratio": 0.95, "sx": 4, "sy": 4} if lib == "agentsd" else {}
    one, again = (run("B2_h16_w16", method_of(lib, use_rand=True, **params))[0] for _ in range(2))
    top_left, _ = run("B2_h16_w16", method_of(lib, use_rand=False, **params))
    assert torch.equal(one, again)
    assert not torch.equal(one, top_left)


def test_a_row_does_not_depend_on_its_neighbours():
    unet = BlockUNet().load_blocks(WEIGHTS)
    data = GOLDEN.of("in.B3_h16_w16")
    with accelerated(unet, method_of("agentsd", ratio=0.4, use_rand=True)):
        together = unet.block_output(data["x"], data["context"])
        alone = [unet.block_output(data["x"][i : i + 1], data["context"][i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["agent_stage1", "tome_mlp"])
def test_under_autocast(name):
    """Hosts run float32 models so; layers then return half precision, and the plan is the one of float32."""
    case = next(c for c in GOLDEN.cases if c["name"] == name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = run(case["input"], method_of(case["lib"], **case["params"]))
        plain, _ = run(case["input"])
    assert out.dtype == plain.dtype
    torch.testing.assert_close(out.float(), GOLDEN.tensors[f"{name}.out"], rtol=0, atol=5e-2)


def test_in_inference_mode_and_out_of_it():
    """Index tensors that are kept (by a cache of positions, by plan_every) serve both."""
    unet = BlockUNet().load_blocks(WEIGHTS)
    data = GOLDEN.of("in.B2_h9_w13")
    with accelerated(unet, TokenMerging(plan_every=10, use_rand=False)) as accelerator:
        with torch.inference_mode():
            first = unet.block_output(data["x"], data["context"], timestep=500.0)
        second = unet.block_output(data["x"], data["context"], timestep=400.0)
    assert torch.equal(first, second)
    assert accelerator.report().as_dict()["methods"][0]["steps"] == 2
