"""`python -m lib_accel bench`: variants in turn, ratios, table, JSON. Times themselves are never asserted."""

import json
from contextlib import contextmanager

import pytest
import torch

from lib_accel.cli import bench
from lib_accel.cli.architectures import ARCHITECTURES, Architecture, build_unet, unet_inputs
from lib_accel.cli.main import main

TINY = Architecture((32, 64), (1, 0), None, 4, 24)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", TINY)


@pytest.mark.parametrize("backend", ["ldm", "diffusers"])
def test_bench_prints_and_writes_a_row_per_size_and_variant(backend, tiny, tmp_path, capsys):
    path = tmp_path / "bench.json"
    variants = ["plain", "agent", "merging", "merging-per-block", "tomesd", "no-self-attention"]
    command = ["bench", "--arch", "tiny", "--backend", backend, "--size", "64", "128", "--runs", "2", "--json", str(path), "--variants"]
    assert main([*command, *variants]) == 0
    result = json.loads(path.read_text())
    assert [(r["size"], r["variant"]) for r in result["rows"]] == [(s, v) for s in (64, 128) for v in variants]
    for row in result["rows"]:
        assert len(row["seconds"]) == 2 and row["min"] == min(row["seconds"])
    assert "merging on 5 of 6 layers" in result["rows"][2]["account"]
    assert capsys.readouterr().out.count("| 128 |") == len(variants)


def test_variants_take_turns_and_the_warm_up_does_not_count(monkeypatch):
    order, calls = [], []

    def variant(name):
        @contextmanager
        def enter(unet):
            order.append(name)
            yield

        return enter

    ticks = iter(range(100))
    monkeypatch.setattr(bench, "timed", lambda work: (work(), float(next(ticks)))[1])
    rows = bench.measure(None, calls.append, lambda unet: None, {"a": variant("a"), "b": variant("b")}, 2, 64)
    assert len(calls) == 4
    assert order == ["a", "b"] * 3
    assert rows[0]["seconds"] == [2.0, 4.0] and rows[1]["seconds"] == [3.0, 5.0]
    assert rows[1]["ratio_of_min"] == 2 / 3


def test_class_level_sdpa_equals_the_layer_and_is_taken_back():
    from ldm.modules.attention import CrossAttention

    torch.manual_seed(0)
    layer, x, context = CrossAttention(16, 12, heads=2, dim_head=8), torch.randn(2, 9, 16), torch.randn(2, 5, 12)
    before = CrossAttention.forward
    expected = layer(x, context)
    with bench.class_level_sdpa():
        assert CrossAttention.forward is not before
        torch.testing.assert_close(layer(x, context=context), expected)
    assert CrossAttention.forward is before


def test_no_layer_of_a_random_unet_is_zero(tiny):
    for backend in ("ldm", "diffusers"):
        unet = build_unet("tiny", backend)
        assert all(p.any() for p in unet.parameters() if p.ndim > 1)
        with torch.no_grad():
            assert unet_inputs("tiny", backend, 64, 2, torch.float32, "cpu")(unet).shape == (2, 4, 8, 8)
