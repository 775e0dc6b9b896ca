"""What there is besides Accel: fewer steps, the WebUI's own skipping, T-GATE as published; in `quality` and in `bench`."""

import json
from contextlib import contextmanager

import pytest
import torch
from traces import fingerprint

from lib_accel import sample
from lib_accel.cli.alternatives import Fewer, Ngms
from lib_accel.cli.architectures import ARCHITECTURES, Architecture, build_unet
from lib_accel.cli.lab import PEERS, Peer
from lib_accel.cli.main import main
from lib_accel.cli.random_pipeline import pipeline_around
from lib_accel.cli.workloads import pipeline_run

TINY = Architecture((32, 64), (1, 0), None, 4, 24)


def test_in_quality(tmp_path):
    words = "--size 64 --steps 10 --count 1 --preset --method --variants fewer:part=0.7 ngms:sigma=1000 ngms:sigma=1000,all_steps=true"
    assert main(["quality", *words.split(), "ngms:sigma=0", "--out", str(tmp_path)]) == 0
    _, fewer, odd, every, never = json.loads((tmp_path / "quality.json").read_text())["sizes"]["64"]
    assert "Accel: 7 steps, " in fewer["account"] and fewer["ssim"] < 1
    assert "no guidance for 5 of 10 steps" in odd["account"]
    assert "no guidance for 10 of 10 steps" in every["account"]
    assert "no guidance" not in never["account"] and never["ssim"] == 1


def test_peers_in_quality(tmp_path, monkeypatch, capsys):
    """They draw as variants do; one that does not run is told, and the others go on."""

    @contextmanager
    def broken(model):
        raise ModuleNotFoundError("No module named 'magic'", name="magic")
        yield

    monkeypatch.setitem(PEERS, "faster-cache", Peer(broken))
    words = "--size 64 --steps 6 --count 2 --preset --method --variants pyramid-attention faster-cache"
    assert main(["quality", *words.split(), "--out", str(tmp_path)]) == 0
    plain, peer, missing = json.loads((tmp_path / "quality.json").read_text())["sizes"]["64"]
    assert (plain["name"], peer["name"]) == ("plain", "pyramid-attention") and 0 < peer["ssim"] < 1
    assert missing == {"name": "faster-cache", "not_run": "the package magic is not installed"}
    assert "| faster-cache | not run: the package magic is not installed |" in capsys.readouterr().out


@pytest.mark.parametrize("steps", [1, 2, 10, 25])
def test_fewer_steps(steps):
    assert Fewer(1.0).steps(steps) == steps
    assert 1 <= Fewer(0.01).steps(steps) <= Fewer(0.7).steps(steps) <= steps


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("fewer:part=0", "Fewer.part is 0; it must be a number above 0 and up to 1"),
        ("fewer:part=nan", "Fewer.part"),
        ("fewer:steps=3", "'steps=3' must be key=value with a key among part"),
        ("ngms:sigma=-1", "Ngms.sigma is -1; it must be a number of 0 or more"),
    ],
)
def test_bad_values_get_a_sentence(tmp_path, capsys, variant, words):
    assert main(["quality", "--size", "64", "--variants", variant, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_only_the_steps_below_sigma():
    """Odd ones, as in the WebUI."""
    from lib_accel import accelerated

    pipeline = sample.load_pipeline(torch.float32, "cpu", random=True)
    pipeline.set_progress_bar_config(disable=True)
    given = {"num_inference_steps": 8, "guidance_scale": 5.0, "width": 64, "height": 64, "output_type": "latent"}
    with accelerated(pipeline, Ngms(sigma=1.0)) as accelerator:
        pipeline("a red circle", **given)
    saved = accelerator.report().as_dict()["methods"][0]["evaluations_saved"]
    assert 0 < saved < 4


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_a_pipeline_around_a_unet(monkeypatch, name, tmp_path):
    """Bench runs it with Accel's methods; a peer that needs a pipeline is told from one that cannot run."""
    shape = TINY if name == "sd" else Architecture((32, 64), (1, 0), None, 4, 24, pooled=1536 + 16)
    monkeypatch.setitem(ARCHITECTURES, "tiny", shape)
    words = "bench --arch tiny --pipeline --whole --steps 4 --guidance 7 --size 64 --runs 1 --variants plain tgate:gate=0.5"
    assert main([*words.split(), "--json", str(tmp_path / "out.json")]) == 0
    _, gated = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert "no guidance for 2 of 4 steps, 2 evaluations saved" in gated["account"]


def test_all_of_a_pipeline_around_a_unet_is_where_that_is(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", TINY)
    assert pipeline_around(build_unet("tiny", "diffusers", device="meta")).vae.device.type == "meta"


@pytest.mark.parametrize("name", ["published-tgate", "published-tgate-self"])
def test_t_gate_as_published(monkeypatch, name):
    pytest.importorskip("tgate")
    monkeypatch.setitem(ARCHITECTURES, "tiny", TINY)
    pipeline = pipeline_around(build_unet("tiny", "diffusers"))
    run = pipeline_run(pipeline, 64, 2, 5, 7.0)
    rows = []
    pipeline.unet.conv_in.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    before = fingerprint(pipeline.unet)
    with torch.no_grad():
        plain = run(None)
        rows.clear()
        with PEERS[name].apply(pipeline):
            assert not torch.equal(run(None), plain)
        assert rows == [2, 2, 1, 1, 1]
        assert fingerprint(pipeline.unet) == before
        assert torch.equal(run(None), plain)


def test_t_gate_as_published_needs_a_pipeline(monkeypatch, capsys):
    monkeypatch.setitem(ARCHITECTURES, "tiny", TINY)
    words = "bench --arch tiny --whole --steps 2 --guidance 7 --size 64 --runs 1 --variants plain published-tgate"
    assert main(words.split()) == 0
    assert "not run: it runs diffusers' Stable Diffusion pipelines only" in capsys.readouterr().out
