"""`python -m lib_accel info`, and the counting of multiply-adds behind it."""

import json
from functools import cache, partial

import models
import pytest
import torch
from torch import nn

from lib_accel import AgentAttention, DeepCache, TokenDownsampling, TokenMerging, accelerated, sample
from lib_accel.cli import info
from lib_accel.cli.architectures import ARCHITECTURES, Architecture, build_unet
from lib_accel.cli.inputs import UNetInputs
from lib_accel.cli.main import main
from lib_accel.cli.variants import Variant, parse_variant
from lib_accel.cost.macs import KINDS, count_macs

REST, PROJECTIONS, SCORES, CROSS, FEED, MATCHING = KINDS


@cache
def published(name):
    """Shapes alone, and yet seconds to build; counting leaves nothing on it."""
    return build_unet(name, "diffusers", device="meta")


def on_meta(unet, size, batch=1):
    unet = unet.to("meta")
    return unet, UNetInputs(unet, size, batch, torch.float32, "meta")


@pytest.mark.parametrize(
    "name, size, total, shares",
    [
        ("sd15", 512, 402, (55, 6, 15, 4, 19)),
        ("sd15", 1024, 2340, (38, 4, 42, 3, 13)),
        ("sdxl", 1024, 3380, (25, 14, 11, 8, 42)),
    ],
)
def test_the_known_totals(name, size, total, shares):
    """A row of a U-Net call, in GMAC, and its shares in per cent, as worked out independently from the published shapes."""
    unet, inputs = on_meta(published(name), size)
    count = count_macs(unet, partial(inputs, unet))
    assert count.total / 1e9 == pytest.approx(total, rel=0.005)
    assert [100 * count.macs[kind] / count.total for kind in KINDS[:5]] == pytest.approx(shares, abs=0.6)
    assert count.macs[MATCHING] == 0
    levels = {level.level: (level.blocks, level.grid, level.channels) for level in count.levels}
    side = size // 8
    if name == "sdxl":
        assert levels == {1: (10, (side // 2,) * 2, 640), 2: (60, (side // 4,) * 2, 1280)}
    else:
        assert levels[0] == (5, (side, side), 320) and levels[3] == (1, (side // 8,) * 2, 1280)


def test_libraries_agree_and_so_does_a_real_run():
    """LDM, diffusers, shapes alone and real tensors: the same multiply-adds, linear in the rows."""
    shape = Architecture((32, 64), (1, 0), None, 4, 24)
    ARCHITECTURES["count-me"] = shape
    try:
        unets = [build_unet("count-me", backend) for backend in ("ldm", "diffusers")]
    finally:
        del ARCHITECTURES["count-me"]
    counts = []
    for unet in unets:
        counts += [count_macs(unet, partial(UNetInputs(unet, 80, rows, torch.float32, "cpu"), unet)) for rows in (1, 2)]
        unet, inputs = on_meta(unet, 80)
        counts.append(count_macs(unet, partial(inputs, unet)))
    assert counts[0].macs == counts[2].macs == counts[3].macs == counts[5].macs
    assert counts[1].total == 2 * counts[0].total
    assert counts[0].levels == counts[3].levels


def test_counting_by_hand():
    """One self-attention layer's products, written out: a 16x16 grid of 32 channels, 3 blocks of it in this U-Net."""
    unet, inputs = on_meta(models.diffusers_unet(), 128)
    count = count_macs(unet, partial(inputs, unet))
    tokens, channels = [256] * 3 + [64] * 3 + [16], 32
    assert count.macs[SCORES] == sum(2 * n * n * channels for n in tokens)
    assert count.macs[PROJECTIONS] == sum(4 * n * channels * channels for n in tokens)
    assert count.macs[FEED] == sum(12 * n * channels * channels for n in tokens)
    text, width = 77, models.WIDTH
    assert count.macs[CROSS] == sum(2 * n * channels**2 + 2 * text * width * channels + 2 * n * text * channels for n in tokens)


@pytest.mark.parametrize("kind", ["ldm", "sgm", "diffusers", "diffusers-sdxl"])
def test_what_methods_spare(kind):
    """By hand, at the finest level (its three blocks): tokens after merging, agents, halved keys, and the matching of one block."""
    unet, inputs = on_meta(models.UNETS[kind](), 128)
    finest = 1 if kind in ("sgm", "diffusers-sdxl") else 0
    n, channels = (256 >> 2 * finest), 32
    plain = count_macs(unet, partial(inputs, unet))

    def saved(*methods):
        with accelerated(unet, *methods, auto=False) as accelerator:
            accelerator.step(0, 2)
            count = count_macs(unet, partial(inputs, unet))
        return {name: plain.macs[name] - count.macs[name] for name in KINDS}

    merged = n - n // 2
    spared = saved(TokenMerging(ratio=0.5))
    assert spared[SCORES] == 3 * 2 * channels * (n * n - merged * merged)
    assert spared[PROJECTIONS] == 3 * 4 * channels**2 * (n - merged)
    assert spared[MATCHING] == -channels * (n // 4) * (n - n // 4)
    assert spared[REST] == spared[CROSS] == spared[FEED] == 0

    spared = saved(AgentAttention(ratio=0, window=(0, 1)))
    agents = n // 16
    assert spared[SCORES] == 3 * channels * (2 * n * n - 4 * agents * n)
    assert spared[MATCHING] == -channels * agents * (n - agents)

    spared = saved(TokenDownsampling(factor=2))
    assert spared[SCORES] == 3 * 2 * channels * (n * n - n * n // 4)
    assert spared[MATCHING] == 0


@pytest.mark.parametrize("methods", [(), (TokenMerging(ratio=0.5),), (AgentAttention(window=(0, 1)),)])
def test_torchs_own_counter_comes_to_the_same(methods):
    """Twice as many, additions counted too. On shapes alone: of attention on a processor it counts nothing."""
    from torch.utils.flop_counter import FlopCounterMode

    unet, inputs = on_meta(models.diffusers_unet(), 128)
    with accelerated(unet, *methods, auto=False):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            inputs(unet)
        assert counter.get_total_flops() == 2 * count_macs(unet, partial(inputs, unet)).total > 0


def test_counting_leaves_nothing():
    unet, inputs = on_meta(models.diffusers_unet(), 64)
    count_macs(unet, partial(inputs, unet))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())
    with pytest.raises(TypeError):
        count_macs(nn.Linear(1, 1), lambda: None)


def test_phases_of_a_pass():
    unet, inputs = on_meta(models.diffusers_unet(), 128)
    variant = parse_variant("agent:window=0.2-0.6+merging:window=0.6-1,plan_every=2")
    phases = info.whole_pass(unet, inputs, variant, 10)
    assert [(p.first, p.last) for p in phases] == [(0, 1), (2, 5), (6, 9)]
    # Plans are kept for two steps: every other one needs no matching.
    assert [count.macs[MATCHING] > 0 for count in phases[2].counts] == [True, False, True, False]
    assert len(phases[0].counts) == 2 and phases[0].mean(MATCHING) == 0
    total = sum(count.total for phase in phases for count in phase.counts)
    assert info.average(phases) * 10 == pytest.approx(total)


def test_phases_of_a_gated_pass():
    """Behind the gate one row of two runs, without cross-attention's products; at the gate all is as before it."""
    unet, inputs = on_meta(models.diffusers_unet(), 128, batch=2)
    before, at_gate, after = info.whole_pass(unet, inputs, parse_variant("tgate:gate=0.4"), 10)
    assert [(p.first, p.last) for p in (before, at_gate, after)] == [(0, 2), (3, 3), (4, 9)]
    assert before.counts[0].macs == at_gate.counts[0].macs
    assert after.counts[0].macs[CROSS] == 0
    for kind in (REST, PROJECTIONS, SCORES, FEED):
        assert 2 * after.counts[0].macs[kind] == before.counts[0].macs[kind]


def test_stages_are_left_out_of_the_steps_of_which_the_method_says_so():
    """What a step runs depends on those before it, though only a step of each kind is counted."""
    unet, inputs = on_meta(models.diffusers_unet(), 64, batch=2)
    (plain,) = info.whole_pass(unet, inputs, Variant("plain"), 25)
    phases = info.whole_pass(unet, inputs, parse_variant("deepcache"), 25)
    whole = [count.total == plain.counts[0].total for phase in phases for count in phase.counts]
    assert whole == [not kinds for kinds in DeepCache().schedule(25).kinds] and whole.count(False) == 8


def test_presets_are_counted_as_they_act_with_a_sampler_that_can_be_forecast():
    """Whole calls are left out, and guidance is not skipped where steps are forecast."""
    unet, inputs = on_meta(models.diffusers_unet(), 64, batch=2)
    (plain,) = info.whole_pass(unet, inputs, Variant("plain"), 25)
    (quality,) = info.whole_pass(unet, inputs, parse_variant("quality"), 25)
    assert quality.mean() == plain.mean() and 8 < quality.served < 14
    assert info.average([quality]) == pytest.approx(plain.mean() * (25 - quality.served) / 25)
    before, after = info.whole_pass(unet, inputs, parse_variant("balanced"), 25)
    assert plain.mean() == before.mean() > after.mean() > 0.6 * plain.mean()
    table = info.passes_table(plain.counts[0], {"quality": [quality]})
    assert f"| quality | average, about {25 - quality.served} of 25 run |" in table


def test_a_method_that_cannot_be_counted_is_no_number(monkeypatch):
    monkeypatch.setenv("ACCEL_STRICT", "0")
    unet, inputs = on_meta(models.diffusers_unet(), 128)
    monkeypatch.setattr("lib_accel.methods.token_downsampling.downsample_grid", lambda *_: None)
    with pytest.raises(info.CommandError, match="could not be counted"):
        info.whole_pass(unet, inputs, Variant("broken", (TokenDownsampling(),)), 4)


def test_the_command_on_the_sample_model(tmp_path, capsys):
    path = tmp_path / "info.json"
    assert main(["info", "--size", "256", "512", "--steps", "12", "--variants", "fast", "merging", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    out = capsys.readouterr().out
    assert "| 1/1 of the latent | 3 | 64x64 | 4096 | 64 |" in out and "| merging | 1 to 12 |" in out
    numbers = result["sizes"]["512"]
    assert numbers["variants"]["merging"]["average"] < numbers["plain"]["total"]
    (phase,) = numbers["variants"]["fast"]["phases"]
    assert phase["served"] and numbers["variants"]["fast"]["average"] == pytest.approx(phase["total"] * (12 - phase["served"]) / 12)


def test_a_model_from_disk(tmp_path, capsys):
    sample.load_pipeline(random=True).save_pretrained(tmp_path / "model")
    assert main(["info", str(tmp_path / "model"), "--size", "128", "--variants", "quality"]) == 0
    assert "| quality | average, about " in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["sd3"], ["'sd3'", "sd15, sd21, sdxl"]),
        (["sd15", "--size", "100"], ["--size", "100", "multiple of 8"]),
        (["sd15", "--batch", "0"], ["--batch", "0"]),
        (["sd15", "--steps", "0"], ["--steps", "0"]),
        (["sd15", "--variants", "tomesd"], ["tomesd", "preset"]),
        (["sd15", "--variants", "turbo"], ["turbo"]),
        (["sd15", "--config", "a folder"], ["--config is 'a folder'", ".safetensors checkpoint as MODEL"]),
    ],
)
def test_bad_input_gets_one_sentence(arguments, words, capsys):
    assert main(["info", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and all(word in message for word in words)
