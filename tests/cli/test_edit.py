"""The commands `edit` and `maps`: files, grid, JSON, the account, and sentences for bad input."""

import json

import numpy as np
import pytest
from PIL import Image

from lib_accel.cli.edit_options import cells_of, options_of
from lib_accel.cli.main import main, parser_of

SMALL = ["--steps", "2", "--size", "64", "--device", "cpu"]
SOURCE, EDITED = "a red circle on a gray wall", "a red square on a gray wall"


def test_a_grid_of_windows(tmp_path, capsys):
    args = ["edit", SOURCE, EDITED, "--cross", "0,.4,0.2-0.8", "--self", "0,.4", "--blend", "circle:square", "--out", str(tmp_path)]
    assert main([*args, *SMALL]) == 0
    data = json.loads((tmp_path / "edit.json").read_text(encoding="utf-8"))
    assert [entry["label"].split(":")[0] for entry in data["pictures"]] == [
        f"cross {cross}, self {own}" for own in ("0", "0.4") for cross in ("0", "0.4", "0.2-0.8")
    ]
    assert {entry["kind"] for entry in data["pictures"]} == {"replace"}
    assert all((tmp_path / entry["file"]).exists() and 0 <= entry["mask"] <= 1 for entry in data["pictures"])
    single, grid = Image.open(tmp_path / "source.png"), Image.open(tmp_path / "edit.png")
    assert grid.width > 4 * single.width
    assert grid.height > 2 * single.height
    assert "cross-attention on 10, self-attention on 4 of 10 layers" in capsys.readouterr().out


def test_weights_alone(tmp_path):
    assert main(["edit", SOURCE, "--weight", "red:-2", "--out", str(tmp_path), *SMALL]) == 0
    assert json.loads((tmp_path / "edit.json").read_text(encoding="utf-8"))["pictures"][0]["kind"] == "reweight"


def test_maps_of_words(tmp_path, capsys):
    assert main(["maps", SOURCE, "circle", "gray wall", "0", "--by", "step", "--out", str(tmp_path), *SMALL]) == 0
    data = json.loads((tmp_path / "maps.json").read_text(encoding="utf-8"))
    assert [entry["word"] for entry in data["maps"]] == ["circle", "gray wall", 0]
    assert all(Image.open(tmp_path / entry["file"]).size == (64, 64) for entry in data["maps"])
    assert (tmp_path / "maps.png").exists()
    assert (tmp_path / "maps-by-step.png").exists()
    assert "maps on 10 of 10 layers for 2 of 2 steps" in capsys.readouterr().out


def test_what_is_transparent_in_a_picture_shows_white(tmp_path):
    drawn = []
    for name, picture in (("white", Image.new("RGB", (64, 64), "white")), ("clear", Image.new("RGBA", (64, 64), (0, 0, 0, 0)))):
        picture.save(tmp_path / f"{name}.png")
        args = ["edit", SOURCE, EDITED, "--image", str(tmp_path / f"{name}.png"), "--strength", "0.5", "--out", str(tmp_path / name)]
        assert main([*args, *SMALL]) == 0
        drawn.append(Image.open(tmp_path / name / "edit.png").tobytes())
    assert drawn[0] == drawn[1]


def test_pictures_are_taken_as_programs_show_them(tmp_path):
    """A phone's picture lies on its side in the file; 16 bits a pixel are what editors save in grey."""
    grey = np.random.default_rng(0).integers(0, 256, (64, 128), dtype=np.uint8)
    upright = Image.fromarray(np.rot90(grey, -1))
    upright.convert("RGB").save(tmp_path / "upright.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(grey).convert("RGB").save(tmp_path / "turned.png", exif=turned)
    Image.fromarray(np.asarray(upright).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    pictures = []
    for name in ("upright", "turned", "deep"):
        args = parsed("edit", SOURCE, EDITED, "--image", str(tmp_path / f"{name}.png"), "--strength", "0.5")
        pictures.append(options_of(args)["image"])
    assert pictures[0].size == (64, 128) and pictures[0].mode == "RGB"
    assert all(np.array_equal(np.asarray(pictures[0]), np.asarray(picture)) for picture in pictures[1:])


def test_a_window_that_is_named_twice_is_drawn_once(tmp_path):
    args = parsed("edit", SOURCE, EDITED, "--cross", "0.4,0.40,0.8", "--self", "0,0.4,.4")
    assert [(cell.cross, cell.self_attention) for cell in cells_of(args)] == [(0.4, 0), (0.8, 0), (0.4, 0.4), (0.8, 0.4)]


def parsed(*args):
    return parser_of()[0].parse_args([*args, *SMALL])


@pytest.mark.parametrize("name", ["source.png", "edit-1.png"])
def test_the_picture_that_is_edited_is_not_overwritten(name, tmp_path, capsys):
    Image.new("RGB", (64, 64)).save(tmp_path / name)
    args = ["edit", SOURCE, EDITED, "--image", str(tmp_path / name), "--strength", "0.5", *SMALL]
    assert main([*args, "--out", str(tmp_path)]) == 2
    assert "must be another folder than that of --image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["edit", SOURCE], "there is no edit"),
        (["edit", SOURCE, EDITED, "--cross", "half"], "--cross is 'half'"),
        (["edit", SOURCE, EDITED, "--self", "0.8-0.2"], "--self is '0.8-0.2'; it must be fractions from 0 to 1"),
        (["edit", SOURCE, EDITED, "--cross", "2"], "--cross is '2'; it must be fractions from 0 to 1"),
        (
            ["edit", SOURCE, EDITED, "--word-window", "red:2"],
            "--word-window is 'red:2'; it must be a word, a colon and a window from 0 to 1",
        ),
        (["edit", SOURCE, EDITED, "--cross-layers", "top"], "--cross-layers is 'top'"),
        (["edit", SOURCE, EDITED, "--at-once", "0"], "--at-once is 0; it must be a whole number from 2"),
        (["edit", SOURCE, EDITED, "--strength", "0.5"], "--strength is 0.5; it needs --image"),
        (["edit", SOURCE, EDITED, "--composite"], "--composite is given; it needs --blend"),
        (["edit", SOURCE, EDITED, "--blend", "red", "--threshold", "3"], "--threshold is 3.0"),
        (["edit", SOURCE, EDITED, "--weight", "zebra:2"], "word is 'zebra'"),
        (["edit", SOURCE, EDITED, "--weight", "red"], "--weight is 'red'"),
        (["edit", SOURCE, EDITED, "--blend", "zebra"], "word is 'zebra'"),
        (["edit", SOURCE, EDITED, "--source-latent", "shared", "--at-once", "2"], "--at-once is 2; with source_latent"),
        (["edit", SOURCE, EDITED, "--image", "no such file.png", "--strength", "0.5"], "there is no such file"),
        (["edit", SOURCE, EDITED, "--subtract", "wall"], "--subtract is wall; it needs --blend"),
        (["edit", SOURCE, EDITED, "--blend-start", "0"], "--blend-start is 0.0; it needs --blend"),
        (["maps", SOURCE, "zebra"], "word is 'zebra'"),
        (["maps", SOURCE, "red", "--layers", "=1/64"], "--layers is '=1/64'; no layer could be watched"),
        (["maps", SOURCE, "red", "--layers", "some"], "--layers is 'some'"),
    ],
)
def test_bad_input_is_one_sentence(args, sentence, capsys, tmp_path):
    assert main([*args, "--out", str(tmp_path), *SMALL]) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert "\n" not in said
