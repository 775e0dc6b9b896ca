"""Generations composed from timed steps: what kinds a pass has, how they are counted, and that a composed pass runs those alone."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch

from lib_accel import AgentAttention, GuidanceSkip, TGate, TokenMerging
from lib_accel.cli import composing, workloads
from lib_accel.cli.architectures import ARCHITECTURES, Architecture, Transformer, build_unet
from lib_accel.cli.composing import AlikeSteps, Composer, kinds_of, macs_of_pass
from lib_accel.cli.main import main
from lib_accel.cli.variants import Variant, parse_variant
from lib_accel.core.schedule import first_step

TINY = Architecture((32, 64), (1, 0), None, 4, 24)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", TINY)
    monkeypatch.setitem(ARCHITECTURES, "tiny-pixart", Transformer(2, 2, 24, 24, 128))


def of(*methods, peer=None):
    return Variant("it", methods, peer)


@pytest.mark.parametrize(
    ("variant", "steps", "kinds"),
    [
        (of(), 25, [(0, 25)]),
        (of(peer="no-self-attention"), 25, [(0, 25)]),
        (of(peer="published-deepcache"), 25, [(0, 9), (1, 16)]),
        (of(peer="published-deepcache"), 1, [(0, 1)]),
        (of(AgentAttention(window=(0, 0.4)), TokenMerging(window=(0.4, 1))), 25, [(0, 10), (10, 15)]),
        (of(TokenMerging(window=(0.2, 0.6))), 25, [(0, 15), (5, 10)]),
        (of(TGate(gate=0.4)), 25, [(0, 9), (9, 1), (10, 15)]),
        (of(TGate(gate_step=1)), 4, [(0, 1), (1, 3)]),
        (of(TGate(gate=1.0)), 4, [(0, 4)]),
        (of(TGate(gate=0.5), TokenMerging(window=(0, 0.5))), 8, [(0, 3), (3, 1), (4, 4)]),
        (of(GuidanceSkip(when="after", after=0.5)), 8, [(0, 4), (4, 4)]),
        (of(GuidanceSkip(when="after", after=0.4, reuse=True, every=3)), 25, [(9, 15), (10, 10)]),
        (of(GuidanceSkip(when="after", after=0.2, every=5), TokenMerging(window=(0.2, 1))), 25, [(0, 5), (9, 4), (10, 16)]),
        (of(GuidanceSkip(when="after", after=0.4, every=1)), 4, [(0, 4)]),
        (of(GuidanceSkip()), 3, [(0, 1), (1, 1), (2, 1)]),
        (of(TGate(gate=0.5, fi_interval=2)), 3, [(0, 1), (1, 1), (2, 1)]),
        (of(TokenMerging(plan_every=2)), 3, [(0, 1), (1, 1), (2, 1)]),
        (of(peer="pyramid-attention"), 2, [(0, 1), (1, 1)]),
    ],
)
def test_kinds_of_steps(variant, steps, kinds):
    found = kinds_of(variant, steps)
    assert [(kind.step, kind.count) for kind in found] == kinds
    assert sum(kind.count for kind in found) == steps


def test_every_step_is_counted_as_what_it_is():
    """A pass of one method in a window and a kept direction: as many guided and unguided steps in and outside of it as it has."""
    checked = 0
    for steps in (8, 20, 25):
        for after in (0.04, 0.2, 0.4, 0.5, 0.8):
            for every in (2, 3, 4, 7):
                for window in ((0, 0.5), (0.3, 0.6), (0.5, 1), (0.12, 0.9)):
                    guidance, merging = GuidanceSkip(when="after", after=after, reuse=True, every=every), TokenMerging(window=window)
                    guided = guidance.guided_steps(steps)
                    merged = [first_step(window[0], steps) <= step < first_step(window[1], steps) for step in range(steps)]
                    counted = Counter()
                    for kind in kinds_of(of(guidance, merging), steps):
                        counted[guided[kind.step], merged[kind.step]] += kind.count
                    assert counted == Counter(zip(guided, merged, strict=True)), (steps, after, every, window)
                    checked += 1
    assert checked == 240


def test_a_composed_pass_runs_a_step_of_each_kind_and_counts_it_as_often_as_it_occurs(monkeypatch):
    unet = build_unet("tiny", "diffusers")
    sampling = workloads.Sampling(unet, 64, 2, torch.float32, "cpu", 10, 5.0)
    variant = of(TGate(gate=0.4))
    monkeypatch.setattr(composing, "timed", lambda work: (work(), {3: 10.0}.get(work.args[1], 1.0))[1])
    composer = Composer(sampling)
    with torch.no_grad(), variant.on(unet) as accelerator:
        assert composer.seconds(variant, accelerator) == 3 * 1.0 + 1 * 10.0 + 6 * 1.0
    report = accelerator.report().as_dict()
    assert (report["methods"][0]["unguided_steps"], report["steps"]) == (1, 3)
    assert [(step["step"], step["count"]) for step in composer.seconds_by_step["it"]] == [(0, 3), (3, 1), (4, 6)]


def test_a_kept_direction_is_composed_of_a_step_with_guidance_and_one_without(monkeypatch):
    unet = build_unet("tiny", "diffusers")
    sampling = workloads.Sampling(unet, 64, 2, torch.float32, "cpu", 25, 5.0)
    variant = of(GuidanceSkip(when="after", after=0.4, reuse=True, every=3))
    ran = []
    with torch.no_grad(), variant.on(unet) as accelerator:
        hook = unet.conv_in.register_forward_hook(lambda *call: ran.append(call[2].shape[0]))
        monkeypatch.setattr(composing, "timed", lambda work: (work(), float(ran[-1]))[1])
        try:
            composed = Composer(sampling).seconds(variant, accelerator)
            del ran[:]
            sampling(accelerator)
        finally:
            hook.remove()
    assert composed == sum(ran) == 2 * 15 + 10


def test_a_step_of_a_pass_is_the_same_alone_as_in_it():
    unet = build_unet("tiny", "diffusers")
    sampling = workloads.Sampling(unet, 64, 2, torch.float32, "cpu", 4, 5.0)
    with torch.no_grad():
        latents = sampling.begin()
        for index in range(3):
            latents = sampling.step(None, index, latents)
        in_it = sampling.step(None, 3, latents)
        sampling.begin()
        torch.testing.assert_close(sampling.step(None, 3, latents), in_it)


def test_the_command_composes_and_says_so(tmp_path, capsys):
    path = tmp_path / "composed.json"
    words = f"bench --arch tiny --size 64 --runs 2 --whole --compose --steps 10 --json {path} --variants plain fast"
    assert main(words.split()) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [step["count"] for step in rows[1]["steps"]] == [10]  # Few steps: nothing has a window.
    assert [len(step["seconds"]) for step in rows[1]["steps"]] == [2]
    assert rows[0]["seconds"] == [pytest.approx(10 * seconds) for seconds in rows[0]["steps"][0]["seconds"]]
    assert "composed (each kind of step timed, times how often it occurs)" in capsys.readouterr().out


def test_forecast_steps_cannot_be_timed_alone_and_the_table_says_so(tmp_path, capsys):
    path = tmp_path / "composed.json"
    words = f"bench --arch tiny --size 64 --runs 1 --whole --compose --steps 12 --json {path} --variants"
    assert main([*words.split(), "plain", "quality", "merging"]) == 0
    plain, quality, merging = json.loads(path.read_text())["rows"]
    assert plain["min"] and merging["min"] and quality["min"] is None
    assert "steps are forecast from those before them" in quality["not_run"] and quality["not_run"] in capsys.readouterr().out
    assert main([*words.split(), "quality"]) == 2, "without a first variant there is no ratio"


@pytest.mark.parametrize("more", [["--compose"], ["--compose", "--whole", "--model", "here"]])
def test_what_cannot_be_composed_gets_a_sentence(more, capsys):
    assert main(["bench", *more]) == 2
    assert "--compose" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tiny", "tiny-pixart"])
def test_multiply_adds_of_a_pass(name):
    unet = build_unet(name, "diffusers", device="meta")

    def share(text):
        return macs_of_pass(unet, 64, 2, text if isinstance(text, Variant) else parse_variant(text), 10, True)

    assert share("plain") == 1
    assert share("half-the-rows") == pytest.approx(0.5)
    assert share("merging:ratio=0.5") < 1
    gated, unguided = share(of(TGate(gate=0.4))), share(of(GuidanceSkip(when="after", after=0.4)))
    assert gated < unguided == pytest.approx(0.7)
    assert share(of(GuidanceSkip())) is None


def test_multiply_adds_are_of_the_place_and_the_table_that_are_timed():
    unet = build_unet("tiny", "diffusers", device="meta")

    def share(text, size=64, **more):
        return macs_of_pass(unet, size, 2, replace(parse_variant(text), **more), 1, False)

    late = "merging:ratio=0.5,window=0.4-1"
    assert share(late) == 1 and share(late + "@0.6") == share("merging:ratio=0.5") < 1
    # A processor's table, though nothing is computed: the 2304 tokens of 384 px are enough for it.
    assert share("merging:ratio=0.5", size=256, auto=True) == 1 and share("merging:ratio=0.5", size=384, auto=True) < 1


def test_kinds_are_in_the_order_in_which_they_are_run():
    assert kinds_of(of(TGate(gate=0.4)), 25)[1] == AlikeSteps(9, 1)
