"""`check`, `bench` and `quality` on pipelines of diffusion transformers, as folders: calls as counted, and called what they are."""

import json

import pytest
import transformer_folders as folders

from lib_accel.cli.main import main
from lib_accel.methods import METHODS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return lambda name: str(folders.saved(name, tmp_path_factory.getbasetemp()))


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_check(name, folder, capsys):
    assert main(["check", folder(name)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "All is well." and len(lines) == len(METHODS) + 6 and not any("U-Net" in line for line in lines)
    (forecast,) = [line for line in lines if "Forecast:" in line]
    assert "9 of 12 transformer calls run" in forecast
    (merging,) = [line for line in lines if "TokenMerging:" in line]
    assert "Accel can only skip whole calls of it" in merging
    (guidance,) = [line for line in lines if "GuidanceSkip:" in line]
    assert ("rows left out" if name == "sd3" else "no row was guided") in guidance


@pytest.mark.parametrize(("name", "word"), [("flux", "transformer"), ("sd3", "transformer"), ("pixart", "transformer")])
def test_quality_counts_their_calls(name, word, folder, tmp_path, capsys):
    words = f"--size 64 --steps 12 --count 1 --preset fast --method Forecast --variants fewer:part=0.5 forecast:every=2 --out {tmp_path}"
    assert main(["quality", "--model", folder(name), *words.split()]) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "quality.json").read_text())["sizes"]["64"]}
    assert rows["plain"]["calls"] == 12 and rows["fewer:part=0.5"]["calls"] == 6
    out = capsys.readouterr().out
    assert f"| {word} calls |" in out
    if name != "pixart":
        assert rows["forecast:every=2"]["calls"] == 9 and f"{word} calls run" in rows["forecast:every=2"]["account"]
        assert "Presets for transformer." in out and "TokenMerging" not in rows["fast"]["account"]


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_bench(name, folder, tmp_path, capsys):
    path = tmp_path / "bench.json"
    words = f"bench --model {folder(name)} --size 64 --runs 1 --json {path}"
    assert main([*words.split(), "--whole", "--steps", "12", "--variants", "plain", "forecast:every=2", "fast"]) == 0
    result = json.loads(path.read_text())
    assert "9 of 12 transformer calls run" in result["rows"][1]["account"] and "TokenMerging" not in result["rows"][2]["account"]
    assert main([*words.split(), "--batch", "4", "--variants", "plain"]) == 0
    assert "single transformer calls" in capsys.readouterr().out


def test_info_says_that_it_is_for_unets(folder, capsys):
    assert main(["info", folder("flux")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "FluxTransformer2DModel" in last and "U-Nets" in last


def test_a_pipeline_without_text_encoder_gets_one_sentence(tmp_path, folder, capsys):
    pipe = folders.flux()
    pipe.text_encoder = pipe.text_encoder_2 = pipe.tokenizer = pipe.tokenizer_2 = None
    pipe.register_modules(text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None)
    pipe.save_pretrained(tmp_path / "silent")
    assert main(["check", str(tmp_path / "silent")]) == 2
    assert "FluxPipeline" in capsys.readouterr().err
