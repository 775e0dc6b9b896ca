"""`python -m lib_accel bench`: variants in turn, ratios, memory, table, JSON. Times themselves are never asserted."""

import json
import math
from contextlib import contextmanager

import models
import pytest
import torch
from diffusers import UNet2DConditionModel

from lib_accel import Forecast, sample
from lib_accel.cli import measuring, workloads
from lib_accel.cli.architectures import ARCHITECTURES, Architecture, build_unet
from lib_accel.cli.errors import CommandError
from lib_accel.cli.inputs import UNetInputs
from lib_accel.cli.main import main
from lib_accel.cli.variants import parse_variant
from lib_accel.cli.workloads import class_level_sdpa

TINY = Architecture((32, 64), (1, 0), None, 4, 24)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", TINY)


def bench(tmp_path, words, *more):
    """The rows that a run writes. words: arguments separated by spaces; ``more`` follow."""
    path = tmp_path / "bench.json"
    assert main(["bench", "--json", str(path), "--runs", "1", *words.split(), *more]) == 0
    return json.loads(path.read_text())["rows"]


@pytest.mark.parametrize("backend", ["ldm", "diffusers"])
def test_a_row_per_size_and_variant(backend, tmp_path, capsys):
    variants = ["plain", "agent", "merging:plan=block", "downsampling:factor=2", "draft", "balanced", "balanced@0.9", "tomesd"]
    variants.append("no-self-attention")
    table = tmp_path / "table.md"
    command = f"--arch tiny --backend {backend} --size 64 128 --runs 2 --markdown"
    rows = bench(tmp_path, command, str(table), "--variants", *variants)
    assert [(r["size"], r["variant"]) for r in rows] == [(s, v) for s in (64, 128) for v in variants]
    for row in rows:
        assert len(row["seconds"]) == 2 and row["min"] == min(row["seconds"]) and row["peak_mib"] is None
    accounts = [row["account"] for row in rows[: len(variants)]]
    assert "agents on 5, merging on 5 of 6 layers" in accounts[1]
    assert "merging on 5 of 6 layers" in accounts[2] and "downsampling on 5" in accounts[3]
    # Draft goes one level deeper.
    assert "downsampling on 6" in accounts[4] and "merging on 5" in accounts[4]
    assert "TokenDownsampling: 0 of 6" in accounts[5] and "TokenDownsampling: downsampling on 5" in accounts[6]
    assert table.read_text() in capsys.readouterr().out
    assert table.read_text().count("| 128 |") == len(variants)


@pytest.mark.parametrize("backend", ["ldm", "diffusers"])
def test_batches_and_dtypes(backend, tmp_path):
    """LDM in half precision runs as its hosts run it, and in full precision afterwards."""
    command = f"--arch tiny --backend {backend} --size 64 --batch 1 2 --dtype bfloat16 float32 --variants plain merging"
    rows = bench(tmp_path, command)
    expected = [(d, b, v) for d in ("bfloat16", "float32") for b in (1, 2) for v in ("plain", "merging")]
    assert [(r["dtype"], r["batch"], r["variant"]) for r in rows] == expected
    assert all("0 of" not in r["account"] and "failed" not in r["account"] for r in rows)


@pytest.mark.parametrize("backend", ["ldm", "diffusers"])
def test_whole_generations(backend, tmp_path, capsys):
    command = f"--arch tiny --backend {backend} --size 64 --whole --steps 4 --variants plain balanced agent:window=0-0.5"
    rows = bench(tmp_path, command)
    assert "4 steps, 4 U-Net calls" in rows[1]["account"]
    assert "agents on 5, merging on 5 of 6 layers for 2 of 4 steps" in rows[2]["account"]
    assert "generations of 4 steps" in capsys.readouterr().out


@pytest.mark.parametrize("guidance", ["5", "1"])
def test_steps_of_a_generation_are_forecast_as_in_a_pipeline(guidance, tmp_path):
    """Its sampler has a name, so presets do what they do for users."""
    words = f"--arch tiny --size 64 --whole --steps 12 --guidance {guidance} --macs --variants plain forecast:every=2"
    plain, forecast = bench(tmp_path, words)
    served = sum(map(bool, Forecast(every=2).schedule(12, sampler=workloads.SAMPLER).kinds))
    assert served and f"{12 - served} of 12 U-Net calls run" in forecast["account"]
    # Which steps run is decided by values, and there are none where multiply-adds are counted.
    assert (plain["macs"], forecast["macs"]) == (1.0, None)


def test_a_generation_is_finite_and_guided():
    unet = build_unet("tiny", "diffusers")
    with torch.no_grad():
        weak, strong = (workloads.Sampling(unet, 64, 2, torch.float32, "cpu", 3, guidance)(None) for guidance in (1.5, 9))
        alone = workloads.Sampling(unet, 64, 2, torch.float32, "cpu", 3, 0)(None)
    assert weak.shape == (1, 4, 8, 8) and alone.shape == (2, 4, 8, 8)
    assert torch.isfinite(strong).all() and not torch.equal(weak, strong)


def test_auto_acts_only_where_it_pays(tmp_path):
    rows = bench(tmp_path, "--arch tiny --size 64 --auto --variants plain merging fast")
    assert all("0 of 6 layers" in row["account"] for row in rows[1:])


@pytest.mark.parametrize("whole", [[], ["--whole", "--steps", "2"]])
def test_a_model_from_disk(whole, tmp_path):
    sample.load_pipeline(random=True).save_pretrained(tmp_path / "model")
    rows = bench(tmp_path, "--size 64 --variants plain merging", *whole, "--model", str(tmp_path / "model"))
    assert "merging on 3 of 10 layers" in rows[1]["account"]


def test_peak_memory(tmp_path, capsys):
    rows = bench(tmp_path, "--arch tiny --size 128 --memory --variants plain no-self-attention")
    assert 0 < rows[1]["peak_mib"] <= rows[0]["peak_mib"] < 100
    assert "peak MiB" in capsys.readouterr().out

    def work():
        first, second = torch.empty(1 << 20), torch.empty(1 << 20)
        del first
        return torch.cat([second, torch.empty(1 << 18)])

    assert measuring.peak_bytes(work, "cpu") == 4 * ((1 << 20) + (1 << 18) + (1 << 20) + (1 << 18))


def test_variants_take_turns_and_the_warm_up_does_not_count(monkeypatch):
    order, calls = [], []

    class Fake:
        def __init__(self, name):
            self.name = name

        @contextmanager
        def on(self, model):
            order.append(self.name)
            yield None

    ticks = iter(range(100))
    monkeypatch.setattr(measuring, "timed", lambda work: (work(), float(next(ticks)))[1])
    rows = measuring.measure(None, calls.append, lambda _: None, [Fake("a"), Fake("b")], 2)
    assert len(calls) == 4
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert rows[0]["seconds"] == [3.0, 4.0] and rows[1]["seconds"] == [2.0, 5.0]
    assert rows[1]["ratio_of_min"] == 3 / 2 and rows[1]["ratio_of_median"] == 1


def test_class_level_sdpa_equals_the_layer_and_is_taken_back():
    from ldm.modules.attention import CrossAttention

    torch.manual_seed(0)
    layer, x, context = CrossAttention(16, 12, heads=2, dim_head=8), torch.randn(2, 9, 16), torch.randn(2, 5, 12)
    before = CrossAttention.forward
    expected = layer(x, context)
    with class_level_sdpa():
        assert CrossAttention.forward is not before
        torch.testing.assert_close(layer(x, context=context), expected)
    assert CrossAttention.forward is before


def test_no_layer_of_a_random_unet_is_zero():
    for backend in ("ldm", "diffusers"):
        assert all(p.any() for p in build_unet("tiny", backend).parameters() if p.ndim > 1)


@pytest.mark.parametrize("kind", models.UNETS)
def test_inputs_fit_any_unet(kind):
    unet = models.UNETS[kind]()
    with torch.no_grad():
        out = UNetInputs(unet, 128, 3, torch.float32, "cpu")(unet)
    assert out.shape == (3, 4, 16, 16) and torch.isfinite(out).all()


@pytest.mark.parametrize(
    "more",
    [{"num_class_embeds": 3}, {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 8}],
    ids=["classes", "projection"],
)
def test_u_nets_that_are_told_of_other_things_than_a_text_get_a_sentence(more):
    shape = {"block_out_channels": (8, 8), "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 2, "layers_per_block": 1}
    kinds = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    with pytest.raises(CommandError, match=f"the U-Net has {next(iter(more))} .*; it must be one of a text-to-image model"):
        UNetInputs(UNet2DConditionModel(**shape, **kinds, **more), 64, 1, torch.float32, "cpu")
    kolors = UNet2DConditionModel(**shape, **kinds, encoder_hid_dim=12, encoder_hid_dim_type="text_proj")
    with torch.no_grad():
        assert UNetInputs(kolors, 64, 1, torch.float32, "cpu")(kolors).shape == (1, 4, 8, 8)


def test_variants_as_words():
    (agents,) = parse_variant("agent:ratio=0.3,sx=2,plan=block,attn_precision=fp32,use_rand=false").methods
    assert (agents.ratio, agents.sx, agents.plan, agents.attn_precision, agents.use_rand) == (0.3, 2, "block", "fp32", False)
    assert agents.window == (0, 1)
    first, second = parse_variant("agent:window=0-0.4,attn_precision=none+merging:window=0.4-1").methods
    assert first.window == (0, 0.4) and first.attn_precision is None and second.window == (0.4, 1)
    assert parse_variant("Fast@0.25").at == 0.25
    assert not parse_variant("plain").methods and parse_variant("tomesd").peer == "tomesd"
    assert parse_variant("draft", "sdxl").methods != parse_variant("draft", "sd1").methods
    gated, skipping = parse_variant("tgate:gate_step=5,drop_guidance=false+guidance:when=after,after=0.6").methods
    assert (gated.gate_step, gated.drop_guidance, skipping.when, skipping.after) == (5, False, "after", 0.6)
    assert math.isclose(parse_variant("merging:ratio=1e-1").methods[0].ratio, 0.1)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--size", "100"], ["--size", "100", "multiple of 8"]),
        (["--size", "72", "--backend", "ldm"], ["--size", "72", "multiple of 64"]),
        (["--batch", "0"], ["--batch", "0"]),
        (["--runs", "0"], ["--runs", "0", "1 to 1000"]),
        (["--threads", "0"], ["--threads", "0"]),
        (["--whole", "--guidance", "nan"], ["--guidance", "nan", "0 to 100"]),
        (["--guidance", "7"], ["--guidance is 7.0; it goes with --whole"]),
        (["--steps", "3"], ["--steps is 3; it goes with --whole"]),
        (["--whole", "--steps", "0"], ["--steps", "0"]),
        (["--whole", "--batch", "3"], ["--batch", "3", "even"]),
        (["--whole", "--variants", "fast@0.5"], ["fast@0.5", "--whole"]),
        (["--variants", "turbo"], ["turbo", "merging", "balanced", "tomesd"]),
        (["--variants", "merging:magic=1"], ["magic=1", "ratio"]),
        (["--variants", "merging:ratio"], ["'ratio'", "key=value"]),
        (["--variants", "merging:ratio=2"], ["TokenMerging.ratio", "2", "0 to 1"]),
        (["--variants", "merging:ratio=much"], ["TokenMerging.ratio", "'much'"]),
        (["--variants", "fast@2"], ["fast@2", "0 to 1"]),
        (["--variants", "edit:pictures=2.5"], ["EditProbe.pictures", "2.5", "2 to 1024"]),
        (["--variants", "edit:blend=perhaps"], ["EditProbe.blend", "perhaps"]),
        (["--json", "here/../same", "--markdown", "same"], ["--markdown is 'same'", "another file than --json"]),
        (["--variants", "plain@0"], ["plain@0"]),
        (["--model", "no-such-model"], ["no-such-model"]),
        (["--model", "no-such-model", "--backend", "ldm"], ["--backend is ldm", "--arch"]),
        (["--config", "a folder"], ["--config is 'a folder'", ".safetensors checkpoint as --model"]),
    ],
)
def test_bad_input_gets_one_sentence(arguments, words, capsys):
    arch = [] if "--model" in arguments else ["--arch", "tiny"]
    assert main(["bench", *arch, *arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and all(word in message for word in words)


def test_two_models_get_one_sentence(tmp_path, capsys):
    assert main(["bench", "--arch", "tiny", "--model", str(tmp_path)]) == 2
    assert "--arch and --model" in capsys.readouterr().err
