"""The evaluation draws, judges and reports; its prompts are combinations that training never saw."""

import json

import pytest
from PIL import Image

from lib_accel.sample import captions, scenes
from sample_model import evaluate, evaluate_edits


def test_prompts_are_held_out_and_fixed():
    prompts = captions.held_out_prompts(60)
    assert prompts == captions.held_out_prompts(60)
    for index, prompt in enumerate(prompts):
        wanted = captions.parse(prompt)
        assert len(wanted.items) == 1 + index % 2
        assert all(scenes.triple_is_held_out(item[0], item[1], wanted.background) for item in wanted.items)


def test_it_writes_a_table_a_report_and_a_grid(random_folder, tmp_path, capsys):
    arguments = ["--model", str(random_folder), "--count", "4", "--steps", "1", "--size", "64", "--batch", "2"]
    assert evaluate.main([*arguments, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert report["summary"]["background"]["of"] == 4 and report["summary"]["both objects"]["of"] == 2
    assert report["summary"]["shape"]["of"] == 6 and report["settings"]["steps"] == 1
    assert Image.open(tmp_path / "grid.png").size == (4 * 64, 64)
    assert "both objects" in capsys.readouterr().out


def test_it_draws_other_aspects_with_other_samplers(random_folder, tmp_path, capsys):
    arguments = ["--model", str(random_folder), "--count", "2", "--steps", "1", "--size", "128", "--width", "64"]
    assert evaluate.main([*arguments, "--sampler", "DDIM", "--out", str(tmp_path)]) == 0
    assert Image.open(tmp_path / "grid.png").size == (2 * 64, 128)
    assert "2 pictures, 64x128, DDIM, 1 steps" in capsys.readouterr().out


def test_a_picture_does_not_depend_on_the_batch(random_folder):
    import numpy as np

    from lib_accel.sample import load_pipeline

    pipeline, prompts = load_pipeline(folder=random_folder), ["a red star", "a blue ring on sand"]
    alone, together = (list(evaluate.draw(pipeline, prompts, 1, 5.0, (64, 64), 0, batch)) for batch in (1, 2))
    assert all(np.abs(a.astype(int) - b.astype(int)).max() <= 1 for a, b in zip(alone, together))


@pytest.mark.parametrize("module", [evaluate, evaluate_edits], ids=lambda module: module.__name__)
@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--size", "250"], "--size is 250; it must be a multiple of 8 from 64 on."),
        (["--width", "60"], "--width is 60; it must be a multiple of 8 from 64 on."),
        (["--count", "0"], "--count is 0; it must be a whole number from 1 to 100000."),
        ([], "it must be a folder that can be written to"),
    ],
)
def test_what_would_spoil_an_hour_of_work_is_told_before_it(module, more, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "Processes", lambda device: pytest.fail("the work began"))
    (tmp_path / "file").touch()
    out = tmp_path / "out" if more else tmp_path / "file"
    with pytest.raises(SystemExit) as ended:
        module.main([*more, "--out", str(out)])
    assert ended.value.code == 2 and sentence in capsys.readouterr().err
