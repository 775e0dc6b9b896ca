"""The evaluation of prompt edits: its cases, its measures on drawn scenes, its tables."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lib_accel.sample import captions, checker, scenes
from sample_model import edit_tables, evaluate_edits


def scene(x=0.5, colour="red", background="wall", shape="square", size="medium"):
    return Image.fromarray(scenes.render(scenes.Scene(background, (scenes.Item(shape, colour, size=size, x=x),))))


def test_cases_ask_for_one_change_each():
    rng = np.random.default_rng(0)
    for _ in range(50):
        case = evaluate_edits.random_case(rng)
        before = captions.parse(case.source)
        for kind, prompt in case.edits.items():
            after = captions.parse(prompt)
            changed = {
                "shape": before.items[0][0] != after.items[0][0],
                "colour": before.items[0][1] != after.items[0][1],
                "texture": before.items[0][2] != after.items[0][2],
                "background": before.background != after.background,
            }
            assert [name for name, differs in changed.items() if differs] == [kind]
            assert before.items[1:] == after.items[1:]
        assert all(word in case.source.split() and new in case.edits[kind].split() for kind, (word, new) in case.words.items())


def test_what_should_stay_is_measured_outside_the_object():
    source = scene()
    same = evaluate_edits.kept("colour", scene(colour="blue"), source)
    assert same["ssim"] > 0.99
    assert same["moved"] < 0.02
    moved = evaluate_edits.kept("colour", scene(x=0.7, colour="blue"), source)
    assert moved["moved"] == pytest.approx(0.2, abs=0.03)
    assert evaluate_edits.kept("colour", scene(background="grass"), source)["ssim"] < same["ssim"] - 0.02
    assert (
        evaluate_edits.kept("background", scene(background="grass"), source)["ssim"]
        > evaluate_edits.kept("background", scene(background="grass", shape="star"), source)["ssim"]
    )


def test_verdicts_are_read_by_kind():
    verdict = checker.judge(scene(), captions.parse("a red star on a wall"))
    assert [evaluate_edits.is_right(kind, verdict) for kind in edit_tables.KINDS] == [False, True, True, True]


def test_the_share_of_a_colour_grows_with_it():
    reds = [evaluate_edits.coloured(scene(colour=colour), "red") for colour in ("blue", "red")]
    assert reds[1] > 0.03 > reds[0]


def test_the_summary_pairs_each_source_with_itself(capsys):
    records = [
        {"kind": kind, "control": control, "right": True, "ssim": 0.5 + seed + 0.1 * (control == "held"), "moved": 0.0}
        for kind in edit_tables.KINDS
        for control in ("held", "free")
        for seed in range(3)
    ]
    weights = [{"colour": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]}, {"colour": [0.0, 0.1, 0.2, 0.3, 0.4, 0.3]}]
    blend = {"scheduler": "DDIMScheduler", "mask": 0.2, "latents_outside": 1e-4, "pixels_outside": 1, "right": True}
    summary = edit_tables.summarise(records, weights, [blend, blend | {"pixels_outside": 0}])
    assert summary["edits"]["shape"]["ssim"]["difference"] == pytest.approx([0.1, 0.1, 0.1])
    assert summary["weights"]["colour"]["steps that do not fall"] == 9 / 10
    assert summary["blend"]["DDIMScheduler"]["pixels_outside"] == 1
    edit_tables.print_summary(summary)
    assert "| shape | 3 | 100% / 100%" in capsys.readouterr().out


def test_without_sources_in_the_grids_the_numbers_are_kept(tmp_path, monkeypatch):
    evaluation = evaluate_edits.Evaluation(None, None)
    monkeypatch.setattr(evaluate_edits, "summarise", lambda *_: {"edits": {}, "weights": {}, "blend": {}})
    evaluate_edits.write(evaluation, SimpleNamespace(out=tmp_path, shown=0), SimpleNamespace(as_dict=dict))
    assert [path.name for path in tmp_path.iterdir()] == ["edits.json"]
