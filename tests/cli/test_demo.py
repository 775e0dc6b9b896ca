"""`python -m lib_accel demo`: pictures, grid and JSON; bad input."""

import json

import pytest
from PIL import Image

from lib_accel import sample
from lib_accel.cli import models
from lib_accel.cli.main import main
from lib_accel.settings.presets import PRESETS

QUICK = ["--size", "128", "--steps", "11", "--repeats", "1"]


def test_demo_writes_pictures_grid_and_account(tmp_path, capsys):
    assert main(["demo", *QUICK, "--preset", "balanced", "fast", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "demo.json").read_text())
    assert [p["name"] for p in result["pictures"]] == ["plain", "balanced", "fast"]
    plain, balanced, fast = result["pictures"]
    assert plain["ratio"] == 1.0 and plain["to_plain"] == "identical"
    for entry, effects in ((balanced, {}), (fast, {"merging": 3})):
        assert entry["seconds"] > 0 and entry["ratio"] == pytest.approx(plain["seconds"] / entry["seconds"])
        methods = {told["method"]: told for told in entry["report"]["methods"]}
        assert methods["TokenDownsampling"]["layers_by_effect"] == {"downsampling": 3}
        assert methods.get("TokenMerging", {"layers_by_effect": {}})["layers_by_effect"] == effects
        assert 0 < entry["report"]["calls_served"] < 6 and methods["DeepCache"]["shallow_steps"] == 0
        assert [reason["code"] for reason in methods["DeepCache"]["reasons"]] == ["forecast_instead"]
        assert "; TokenDownsampling: downsampling on 3 of 10 layers for " in entry["account"]
        assert 0 < entry["ssim"] < 1 and entry["psnr"] > 0
        assert Image.open(tmp_path / entry["file"]).size == (128, 128)
    grid = Image.open(tmp_path / "comparison.png")
    assert grid.width > 3 * 128 and grid.height > 128
    told = capsys.readouterr().out
    assert "comparison.png" in told and "no U-Net call was seen" not in told


def test_demo_draws_the_same_picture_again(tmp_path):
    for folder in ("one", "two"):
        assert main(["demo", *QUICK, "--preset", "fast", "--seed", "9" * 30, "--out", str(tmp_path / folder)]) == 0
    for name in ("plain.png", "fast.png"):
        assert Image.open(tmp_path / "one" / name).tobytes() == Image.open(tmp_path / "two" / name).tobytes()


def test_demo_without_weights_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sample, "has_weights", lambda: False)
    assert main(["demo", *QUICK, "--preset", "quality", "--out", str(tmp_path)]) == 0
    assert "random weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "100"], ["--size", "100", "multiple of 8"]),
        (["--size", "0"], ["--size", "0", "multiple of 8"]),
        (["--steps", "0"], ["--steps", "0", "1 to 1000"]),
        (["--repeats", "0"], ["--repeats", "0"]),
        (["--guidance", "-1"], ["--guidance", "-1", "0 to 100"]),
        (["--guidance", "nan"], ["--guidance", "nan", "0 to 100"]),
        (["--preset", "turbo"], ["--preset", "turbo", *PRESETS]),
        (["--model", "no-such-model"], ["--model", "no-such-model", "nothing is downloaded"]),
    ],
)
def test_bad_input_gets_one_sentence(arguments, words, tmp_path, capsys):
    assert main(["demo", *arguments, "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and all(word in message for word in words)
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(monkeypatch, capsys, tmp_path):
    for name, mend in (("diffusers", "; install the extra: pip install '.[demo]'"), ("ldm.modules", "")):

        def missing(*_, name=name):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        monkeypatch.setattr("lib_accel.cli.drawing.open_pipeline", missing)
        assert main(["demo", *QUICK, "--out", str(tmp_path)]) == 2
        assert capsys.readouterr().err == f"demo: the package {name!r} is missing{mend}\n"


def test_a_model_that_fails_without_a_word_gets_a_sentence(monkeypatch, capsys, tmp_path):
    def fails(*_):
        raise EOFError

    (tmp_path / models.INDEX).touch()
    monkeypatch.setattr(models, "_open", fails)
    assert main(["demo", *QUICK, "--model", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"demo: {tmp_path} could not be opened: EOFError\n"


@pytest.mark.parametrize("command", ["check", "info", "demo"])
def test_what_is_no_model_is_called_as_the_command_calls_it(command, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    (tmp_path / "model.ckpt").write_bytes(b"nothing")
    name, option = ("--model", ["--model"]) if command == "demo" else ("MODEL", [])
    for given, words in (
        ("empty", f"{name} is {str(tmp_path / 'empty')!r}; it must be a diffusers folder, with a file model_index.json."),
        ("model.ckpt", f"{name} is {str(tmp_path / 'model.ckpt')!r}; a single file must be a .safetensors checkpoint."),
        ("model.safetensors", "--config is missing; a checkpoint needs a diffusers folder of the same kind of model."),
    ):
        assert main([command, *option, str(tmp_path / given)]) == 2
        assert capsys.readouterr().err == f"{command}: {words}\n"
    # Nothing is looked for on the internet.
    assert main([command, *option, str(tmp_path / "model.safetensors"), "--config", "someone/model"]) == 2
    assert "--config is 'someone/model'; it must be a diffusers folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "demo"])
def test_a_configuration_that_no_checkpoint_takes_is_not_passed_over(command, tmp_path, capsys):
    """Whoever forgets --model would get pictures of another model."""
    name, option = ("--model", ["--model"]) if command == "demo" else ("MODEL", [])
    for given in ([], [*option, str(tmp_path)]):
        assert main([command, *given, "--config", "someone"]) == 2
        assert capsys.readouterr().err == f"{command}: --config is 'someone'; it goes with a .safetensors checkpoint as {name}.\n"


@pytest.mark.parametrize("kind", ["StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"])
def test_models_that_need_a_picture_get_a_sentence(kind, tmp_path, capsys):
    import diffusers

    parts = sample.load_pipeline(random=True).components
    getattr(diffusers, kind)(**parts, requires_safety_checker=False).save_pretrained(tmp_path / "model")
    given = ["--model", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--steps", "2"]
    needs = f"the pipeline is a {kind}, which needs image; it must draw from a prompt alone."
    quality, bench = ["quality", "--preset", "fast", "--count", "1"], ["bench", "--whole", "--size", "64", "--runs", "1"]
    for command in (["demo"], quality):
        assert main([*command, *given]) == 2
        assert needs in capsys.readouterr().err, command
    assert main([*bench, *given[:2], "--steps", "2"]) == 2
    assert needs in capsys.readouterr().err
    assert main(["maps", "a red star", "star", *given]) == 2
    assert f"pipe is {kind}; it must be a text-to-image pipeline" in capsys.readouterr().err


def test_opening_a_folder_and_what_is_no_model(tmp_path):
    import torch

    sample.load_pipeline(random=True).save_pretrained(tmp_path / "folder")
    pipeline, what = models.open_pipeline(tmp_path / "folder", None, "cpu", torch.float32)
    assert type(pipeline).__name__ == "StableDiffusionPipeline" and what.endswith("folder")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "pickle.ckpt").write_bytes(b"nothing")
    for name, config in (("empty", None), ("broken.safetensors", tmp_path / "folder"), ("broken.safetensors", None), ("pickle.ckpt", None)):
        with pytest.raises(models.CommandError):
            models.open_pipeline(tmp_path / name, config, "cpu", torch.float32)
