"""A method is one file and one line: the toy of docs/adding-a-method.md, found wherever no host is needed."""

import json
import re

import adding
import models
import pytest
import torch

from lib_accel import accelerated


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    with adding.added_toy(tmp_path_factory.mktemp("methods")) as made:
        yield made


def test_the_page_adds_two_things_and_uses_them(toy, capsys):
    unet = models.diffusers_unet()
    exec(adding.blocks()[3], {"unet": unet, "run": lambda: models.call(unet)})
    said = re.search(r"# Accel: .*?; (Toy: .*)", adding.blocks()[3])[1]
    assert capsys.readouterr().out.strip().endswith(f"; {said}")


def test_it_counts_and_changes_nothing(toy):
    unet = models.diffusers_unet()
    plain = models.call(unet)
    with accelerated(unet, toy(x=3)) as accelerator:
        assert torch.equal(models.call(unet), plain)
        assert accelerator.running(toy).counted == 3 * 7
    method = accelerator.report().as_dict()["methods"][0]
    assert method["layers_by_effect"] == {"counted": 7} and method["changed"] == {"x": 3}
    with pytest.raises(ValueError, match=r"^Toy.x is 11; it must be a whole number from 0 to 10\.$"):
        toy(x=11)


def test_settings_png_info_and_back(toy):
    from lib_accel.settings.infotext import from_infotext, to_infotext
    from lib_accel.settings.job import resolve
    from lib_accel.settings.passes import FIRST, methods_for
    from lib_accel.settings.schema import KNOBS

    # Settings by position stay where they were.
    assert list(KNOBS)[-4:] == ["toy.on", "toy.x", "toy.start", "toy.end"]
    assert KNOBS["toy.x"].label == "Toy: count by" and KNOBS["toy.on"].hint == "on: calls of self-attention are counted"
    settings = resolve({"enabled": True, "preset": "custom", "toy.x": 4, "toy.end": 0.5}, "sd1")
    info = to_infotext(settings)
    assert info == {"Accel": "Custom", "Accel toy": "True", "Accel toy count by": "4", "Accel toy end": "0.5"}
    assert from_infotext(info) == settings
    assert methods_for(settings, FIRST) == ((toy(x=4, window=(0, 0.5)),), None)


def test_preview_and_estimate(toy, monkeypatch):
    from lib_accel.cost.preview import KINDS, preview_pass, saved
    from lib_accel.settings.job import Settings
    from lib_accel.settings.passes import FIRST

    settings = Settings({"enabled": True, "preset": "custom", "toy.on": True, "toy.end": 0.5})
    shown = preview_pass(settings, FIRST, "sd1", 512, 512, 4)
    assert shown.steps == (("toy",), ("toy",), (), ()) and KINDS["toy"].label == "counted"
    assert saved([shown]) == 0
    monkeypatch.setattr(toy, "spare_step", lambda self, work, kinds: setattr(work, "rows", 1))
    assert preview_pass(settings, FIRST, "sd1", 512, 512, 4).work == pytest.approx(0.75 * shown.plain)


def test_the_command_line(toy, tmp_path, monkeypatch, capsys):
    from lib_accel.cli import architectures
    from lib_accel.cli.composing import kinds_of
    from lib_accel.cli.main import main
    from lib_accel.cli.variants import parse_variant

    monkeypatch.setitem(architectures.ARCHITECTURES, "tiny", architectures.Architecture((32, 64), (1, 0), None, 4, 24))
    variant = parse_variant("toy:x=2")
    assert variant.methods == (toy(x=2, window=(0, 1)),)
    assert [(kind.step, kind.count) for kind in kinds_of(parse_variant("toy:window=0-0.5"), 4)] == [(0, 2), (2, 2)]
    path = tmp_path / "bench.json"
    assert main(["bench", "--arch", "tiny", "--size", "64", "--runs", "1", "--variants", "plain", "toy:x=2", "--json", str(path)]) == 0
    assert "Toy: counted on 6 of 6 layers for 1 of 1 steps" in json.loads(path.read_text())["rows"][1]["account"]
    capsys.readouterr()
    assert main(["check"]) == 0
    assert "ok      Toy: counted on 10 of 10 layers; largest change 0\n" in capsys.readouterr().out
