"""`python -m lib_accel quality`: the numbers are what they say, the command writes table, JSON and grids."""

import json

import numpy as np
import pytest
from PIL import Image

from lib_accel.cli import quality
from lib_accel.cli.main import main
from lib_accel.images import metrics


def test_tone_and_detail():
    rng = np.random.default_rng(0)
    reference = rng.integers(40, 200, (32, 32, 3), dtype=np.uint8)
    assert metrics.tone_shift(reference, reference) == (0.0, 0.0)
    assert metrics.tone_shift(reference + 10, reference)[0] == pytest.approx(10)
    grey = np.repeat(reference.mean(2, keepdims=True).astype(np.uint8), 3, axis=2)
    assert metrics.tone_shift(grey, reference)[1] < -50
    smooth = np.asarray(Image.fromarray(reference).resize((16, 16), Image.BOX).resize((32, 32), Image.BILINEAR))
    assert metrics.detail_ratio(reference, reference) == 1
    assert metrics.detail_ratio(smooth, reference) < 0.2
    black = np.zeros_like(reference)
    assert metrics.detail_ratio(black, black) == 1 and metrics.detail_ratio(black, reference) == 0


def test_the_paired_interval():
    same = metrics.paired_interval([True, False] * 50, [True, False] * 50)
    assert same[0] == 0 and same[1] == pytest.approx(-same[2]) and 0 < same[2] < 0.05
    change, low, high = metrics.paired_interval([True] * 100, [True] * 80 + [False] * 20)
    assert change == -0.2 and low < -0.2 < high < 0
    assert metrics.paired_interval([True], [True])[2] > 0.5  # one case says nothing
    with pytest.raises(ValueError, match="same cases"):
        metrics.paired_interval([True], [])


def test_the_frechet_distance():
    rng = np.random.default_rng(0)
    a = rng.normal(0, 1, (4000, 3))
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(a, a + 2) == pytest.approx(12, rel=1e-6)
    assert metrics.frechet_distance(a, 3 * a) == pytest.approx(12, rel=0.1)  # 3 * (3 - 1) ** 2


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quality, "ENOUGH_FOR_FD", 2)
    arguments = ["--size", "64", "--steps", "2", "--count", "2", "--preset", "fast", "--method", "TokenMerging", "--out", str(tmp_path)]
    assert main(["quality", *arguments]) == 0
    result = json.loads((tmp_path / "quality.json").read_text())
    rows = result["sizes"]["64"]
    assert [row["name"] for row in rows] == ["plain", "TokenMerging", "fast"]
    assert rows[0]["ssim"] == 1 and rows[0]["detail"] == 1 and rows[0]["luminance_shift"] == 0
    assert 0 < rows[2]["ssim"] < 1 and rows[2]["fd"] >= 0 and rows[2]["account"].startswith("Accel:")
    assert Image.open(tmp_path / "grid-64.png").height > 128
    assert "| fast |" in capsys.readouterr().out


def test_presets_are_those_for_the_model_and_its_steps(tmp_path, capsys):
    words = f"--size 64 --count 1 --preset balanced --method --variants fast --out {tmp_path}"
    assert main(["quality", *words.split(), "--steps", "4"]) == 0
    assert all(row["fd"] is None for row in json.loads((tmp_path / "quality.json").read_text())["sizes"]["64"]), "too few pictures"
    accounts = [row["account"] for row in json.loads((tmp_path / "quality.json").read_text())["sizes"]["64"][1:]]
    assert "Presets for few-step." in capsys.readouterr().out
    assert len(accounts) == 2 and all("TokenDownsampling" in account and "GuidanceSkip" not in account for account in accounts)


def test_the_calls_of_each_variant(tmp_path, capsys):
    """Peers' too, and those that ran in part apart."""
    words = f"--size 64 --steps 8 --count 1 --preset --method --variants fewer:part=0.5 spectrum deepcache:warm_up=0.5 --out {tmp_path}"
    assert main(["quality", *words.split()]) == 0
    rows = json.loads((tmp_path / "quality.json").read_text())["sizes"]["64"]
    assert [(row["calls"], row["calls_shallow"]) for row in rows] == [(8, 0), (4, 0), (7, 0), (6, 2)]


def test_every_variant_is_drawn_once_uncounted_before_a_size(tmp_path, monkeypatch):
    from lib_accel.cli import taking_turns

    drawn = []
    draw = taking_turns._draw
    monkeypatch.setattr(taking_turns, "_draw", lambda *given: (drawn.append((given[1].name, given[3], given[5])), draw(*given))[1])
    words = f"--size 64 72 --count 2 --steps 3 --preset fast --method --out {tmp_path}"
    assert main(["quality", *words.split()]) == 0
    of_a_size = [("plain", 2), ("fast", 2), ("fast", 3), ("plain", 3), ("plain", 3), ("fast", 3)]
    assert drawn == [(name, size, steps) for size in (64, 72) for name, steps in of_a_size]


def test_what_the_checker_cannot_read_is_not_judged(tmp_path):
    words = ["--size", "64", "--steps", "1", "--preset", "--method", "--out", str(tmp_path), "--prompt"]
    for prompt, judged in (("hello world", False), ("a red circle", True)):
        assert main(["quality", *words, prompt]) == 0
        (plain,) = json.loads((tmp_path / "quality.json").read_text())["sizes"]["64"]
        assert ("shown" in plain) is judged


def test_variants_are_those_of_bench(tmp_path):
    words = f"--size 64 --steps 4 --count 1 --preset --method --variants merging:ratio=0.3+tgate:gate=0.5 --out {tmp_path}"
    assert main(["quality", *words.split()]) == 0
    (row,) = json.loads((tmp_path / "quality.json").read_text())["sizes"]["64"][1:]
    assert row["name"] == "merging:ratio=0.3+tgate:gate=0.5"
    assert "TokenMerging" in row["account"] and "TGate" in row["account"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--variants", "half-the-rows"], ["--variants", "half-the-rows", "methods"]),
        (["--variants", "fast@0.5"], ["--variants", "fast@0.5"]),
        (["--size", "100"], ["--size", "100", "multiple of 8"]),
        (["--count", "0"], ["--count", "0"]),
        (["--count", "1", "--prompt", "a", "b"], ["--count is 1", "2 or more"]),
        (["--sampler", "Magic"], ["--sampler", "Magic", "DPM++ 2M Karras"]),
        (["--method", "Magic"], ["--method", "Magic", "TokenMerging"]),
        (["--preset", "turbo"], ["preset", "turbo"]),
    ],
)
def test_bad_input_gets_one_sentence(arguments, words, tmp_path, capsys):
    assert main(["quality", *arguments, "--out", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert all(word in errors for word in words) and errors.count("\n") == 1


def test_as_the_preset_decides_and_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCEL_AUTO", "1")
    words = f"--size 64 --steps 2 --count 1 --auto both --preset --method TokenMerging --variants fewer:part=0.5 --out {tmp_path}"
    assert main(["quality", *words.split()]) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "quality.json").read_text())["sizes"]["64"]}
    assert list(rows) == ["plain", "TokenMerging", "fewer:part=0.5", "TokenMerging, auto off"]
    assert rows["TokenMerging"]["ssim"] == 1, "64 tokens are not worth merging"
    assert rows["TokenMerging, auto off"]["ssim"] < 1
