"""What a command writes: places that cannot be are told before the work, seeds of any size are taken, what is finished stays."""

import io
import json

import pytest

from lib_accel.cli import bench, taking_turns
from lib_accel.cli.architectures import ARCHITECTURES, Architecture
from lib_accel.cli.main import main

QUICK = "--steps 1 --size 64"


DRAWING = ("demo --repeats 1 --preset fast", "quality --count 1 --preset --method", "maps circle circle", "edit a b")


def never(_, *__, **___):
    raise AssertionError("the work began")


@pytest.mark.parametrize("words", DRAWING)
def test_a_folder_that_cannot_be_is_told_before_anything_is_drawn(words, tmp_path, monkeypatch, capsys):
    from diffusers import StableDiffusionPipeline

    monkeypatch.setattr(StableDiffusionPipeline, "__call__", never)
    file = tmp_path / "file"
    file.write_text("")
    for out in (file, file / "below"):
        assert main([*words.split(), *QUICK.split(), "--out", str(out)]) == 2
        # Packages that are imported for the first time may say something above it.
        said = capsys.readouterr().err.splitlines()[-1]
        assert f": --out is {str(out)!r}; it must be a folder that can be written to" in said


@pytest.mark.parametrize("words", ["info sd15 --json", "bench --json", "bench --markdown"])
def test_a_file_that_cannot_be_is_told_before_anything_is_measured(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lib_accel.cli.info._open", never)
    monkeypatch.setattr("lib_accel.cli.bench._open", never)
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "it.json"):
        assert main([*words.split(), str(path)]) == 2
        errors = capsys.readouterr().err
        assert words.split()[-1] in errors and str(tmp_path) in errors and errors.count("\n") == 1


def test_the_folder_of_a_file_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", Architecture((32, 64), (1, 0), None, 4, 24))
    path = tmp_path / "new" / "bench.json"
    assert main(["bench", "--arch", "tiny", "--size", "64", "--runs", "1", "--variants", "plain", "--json", str(path)]) == 0
    assert path.exists()


def test_sizes_that_were_measured_are_kept_when_a_later_one_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(ARCHITECTURES, "tiny", Architecture((32, 64), (1, 0), None, 4, 24))
    measured = bench._measure

    def measure(args, model, variants, size, *more):
        if size == 128:
            raise MemoryError
        return measured(args, model, variants, size, *more)

    monkeypatch.setattr(bench, "_measure", measure)
    path = tmp_path / "bench.json"
    with pytest.raises(MemoryError):
        main(["bench", "--arch", "tiny", "--size", "64", "128", "--runs", "1", "--variants", "plain", "--json", str(path)])
    assert [row["size"] for row in json.loads(path.read_text())["rows"]] == [64]
    told = capsys.readouterr().out
    assert "| 64 | 2 |" in told and told.endswith("Stopped: what comes after these rows was not measured.\n")


def stop_when(monkeypatch, due):
    """`quality` is stopped from the keyboard at the first prompt (its number, the size) for which ``due``."""
    drawn = taking_turns.draw_one

    def draw_one(work, index, prompt, size):
        if due(index, size):
            raise KeyboardInterrupt
        return drawn(work, index, prompt, size)

    monkeypatch.setattr(taking_turns, "draw_one", draw_one)


def test_stopping_a_command_is_one_line_and_sizes_that_were_drawn_stay(tmp_path, monkeypatch, capsys):
    stop_when(monkeypatch, lambda index, size: size == 72)
    words = f"quality --count 1 --preset --method --steps 1 --size 64 72 --out {tmp_path}"
    assert main(words.split()) == 130
    assert list(json.loads((tmp_path / "quality.json").read_text())["sizes"]) == ["64"]
    assert capsys.readouterr().err.endswith("quality: stopped.\n")


def test_a_stopped_size_keeps_the_prompts_that_were_finished(tmp_path, monkeypatch, capsys):
    stop_when(monkeypatch, lambda index, size: index == 2)
    words = f"quality --count 4 --preset --method --variants fewer:part=0.5 --steps 2 --size 64 72 --out {tmp_path}"
    assert main(words.split()) == 130
    result = json.loads((tmp_path / "quality.json").read_text())
    assert result["pictures"] == {"64": 2} and [row["name"] for row in result["sizes"]["64"]] == ["plain", "fewer:part=0.5"]
    told = capsys.readouterr()
    assert "Stopped: this is of 2 of 4 prompts." in told.out and told.err.endswith("quality: stopped.\n")


@pytest.mark.parametrize(("count", "wanted"), [([], "ab"), (["--count", "5"], "ababa")], ids=["of each one", "five"])
def test_quality_draws_so_many_pictures_of_your_own_prompts(count, wanted, tmp_path):
    words = f"quality --preset --method {QUICK} --prompt a b --out {tmp_path}"
    assert main([*words.split(), *count]) == 0
    assert "".join(json.loads((tmp_path / "quality.json").read_text())["prompts"]) == wanted


def test_letters_that_stdout_does_not_have_end_no_command(monkeypatch):
    """As into a file on Windows."""
    out = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, encoding="cp1252", write_through=True))
    monkeypatch.setattr("lib_accel.cli.demo.run", lambda args: print(args.prompt) or 0)
    assert main(["demo", "--prompt", "é 星"]) == 0
    assert out.getvalue().decode("cp1252").strip() == r"é \u661f"


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999999"])
def test_quality_takes_seeds_of_any_size_as_the_other_commands_do(seed, tmp_path):
    for prompts in ([], ["--prompt", "a red circle", "a blue star"]):
        words = ["--count", "2", "--preset", "--method", *QUICK.split(), "--seed", seed, *prompts]
        assert main(["quality", *words, "--out", str(tmp_path)]) == 0
        assert len(json.loads((tmp_path / "quality.json").read_text())["prompts"]) == 2


@pytest.mark.parametrize(("option", "value"), [("--steps", "0"), ("--steps", "-3"), ("--guidance", "nan"), ("--guidance", "-1")])
def test_maps_checks_its_pass(option, value, tmp_path, capsys):
    assert main(["maps", "a red circle", "circle", option, value, "--out", str(tmp_path / "maps")]) == 2
    errors = capsys.readouterr().err
    shown = float(value) if option == "--guidance" else value
    assert f"{option} is {shown}; it must be" in errors and errors.count("\n") == 1


def test_an_empty_edited_prompt_is_not_called_the_source(tmp_path):
    assert main(["edit", "a red circle", "", *QUICK.split(), "--out", str(tmp_path)]) == 0
    (entry,) = json.loads((tmp_path / "edit.json").read_text())["pictures"]
    assert entry["label"] == "cross 0.8, self 0.4: "


def test_a_calibration_that_cannot_be_kept_gets_a_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACCEL_DATA", str(tmp_path / "file" / "below"))
    monkeypatch.setattr("lib_accel.cli.calibrate.measure", lambda *_: {"TokenMerging": {64: 2.0}})
    assert main(["calibrate", "--runs", "1", "--device", "cpu"]) == 2
    errors = capsys.readouterr().err
    assert "could not be kept in" in errors and "ACCEL_DATA" in errors and errors.count("\n") == 1
