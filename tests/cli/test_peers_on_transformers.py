"""Peers on diffusion transformers: diffusers' caches of blocks and Spectrum. What they run is counted and weighed, nothing stays."""

import json

import models
import pytest
import torch
import transformer_folders as folders
import transformers_tiny as tiny
from torch import nn
from traces import differences, fingerprint

from lib_accel.backends.noise_levels import levels_of
from lib_accel.cli.counting import calls_of, counting_layer, weigh
from lib_accel.cli.errors import CommandError
from lib_accel.cli.lab import PEERS
from lib_accel.cli.main import main
from lib_accel.cli.variants import parse_variant
from lib_accel.core.fields import SettingError
from lib_accel.core.noise import Noise

STEPS = 10


def built(name):
    made, why = tiny.build(name)
    assert made is not None, why
    made.given["num_inference_steps"] = STEPS
    return made


@pytest.fixture(scope="module")
def flux():
    return built("FluxPipeline")


def drawn(made):
    generator = torch.Generator().manual_seed(3)
    return getattr(made.pipe, "stands_in", made.pipe)(**made.given, generator=generator)[0]


# Calls that run in whole, and what runs of the others: blocks that run in each call.
CACHES = {
    "first-block-cache:threshold=100": (1, {"transformer_blocks.0"}),
    # Steps 3, 5 to 8 are continued: whatever is not attention runs.
    "taylorseer": (5, None),
    "taylorseer:use_lite_mode=true": (5, set()),
    "mag-cache:threshold=100,max_skip_steps=1": (6, set()),
    "mag-cache:threshold=0": (10, set()),
    "pyramid-attention": (6, None),
    "faster-cache": (None, None),
    "spectrum": (8, set()),
}


@pytest.mark.parametrize("variant", CACHES)
def test_what_runs_is_counted_and_nothing_stays(flux, variant):
    """The ratios of magnitudes, which take a run, are taken before."""
    whole, blocks = CACHES[variant]
    layer = counting_layer(flux.model, lambda: flux.draw(num_inference_steps=1))
    before, plain = fingerprint(flux.model), drawn(flux)
    ran = dict.fromkeys(("transformer_blocks.0", "single_transformer_blocks.0"), 0)
    with parse_variant(variant).on(flux.pipe):
        drawn(flux)
    with parse_variant(variant).on(flux.pipe):
        handles = [
            flux.model.get_submodule(f"{name}.norm1.linear" if name[0] == "t" else f"{name}.proj_out").register_forward_hook(
                lambda *_, name=name: ran.update({name: ran[name] + 1})
            )
            for name in ran
        ]
        with calls_of(flux.model, layer) as calls:
            served = drawn(flux)
        for handle in handles:
            handle.remove()
    assert len(calls) == STEPS and served.isfinite().all()
    assert 1 < sum(calls) < STEPS if whole is None else sum(calls) == whole
    if blocks is not None:
        assert ran == {name: STEPS if name in blocks else whole for name in ran}
    assert torch.equal(served, plain) == (whole == STEPS)
    assert differences(before, fingerprint(flux.model)) == set() and "stands_in" not in vars(flux.pipe)
    assert torch.equal(drawn(flux), plain)


def test_calls_are_weighed_by_their_kind():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 16, bias=False)

        def forward(self, x, short):
            return self.first(x) if short else self.second(self.first(x))

    model, x = Model(), torch.ones(3, 8)
    outside = nn.Linear(8, 8)
    with torch.no_grad():
        weights = weigh(model, model.second, lambda: [model(x, short) for short in (False, True, False)] + [outside(x)])
        alone = weigh(model, model.second, lambda: model(x, False))
    assert weights == (3 * 8 * 8 + 3 * 8 * 16, 3 * 8 * 8) and weights.of(2, 1) == 2 * weights.whole + weights.part
    assert alone.part is None and alone.of(1, 0) == alone.whole and alone.of(1, 1) is None


def test_quality_tells_the_calls_in_part_and_the_work(tmp_path, capsys):
    folder = folders.saved("flux", tmp_path)
    words = f"--size 64 --steps 12 --count 2 --preset --method --out {tmp_path} --variants fewer:part=0.5 forecast:every=2 "
    assert main(["quality", "--model", str(folder), *(words + "first-block-cache:threshold=100 taylorseer").split()]) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "quality.json").read_text())["sizes"]["64"]}
    assert [rows[name]["work"] for name in ("plain", "fewer:part=0.5")] == pytest.approx([1, 0.5], rel=0.01)
    forecast = rows["forecast:every=2"]
    assert (forecast["calls"], forecast["work"]) == (9, pytest.approx(9 / 12)) and not forecast["calls_in_part"]
    first, series = rows["first-block-cache:threshold=100"], rows["taylorseer"]
    # The first of four blocks, of which two are about twice as large.
    assert (first["calls"], first["calls_in_part"]) == (1, 11) and 0.2 < first["work"] < 0.5
    assert (series["calls"], series["calls_in_part"]) == (5, 7) and 5 / 12 < series["work"] < 1
    out = capsys.readouterr().out
    assert "| transformer calls | work |" in out and "| 1 + 11.0 in part |" in out


@pytest.mark.parametrize("name", ["first-block-cache", "taylorseer", "mag-cache"])
def test_a_unet_is_refused_in_a_sentence(name):
    pipe = models.pipeline()
    with pytest.raises(CommandError, match="diffusion transformers, and UNet2DConditionModel is a U-Net"), PEERS[name].apply(pipe):
        models.picture(pipe, 2)


@pytest.mark.parametrize("name", ["first-block-cache", "taylorseer", "mag-cache", "pyramid-attention"])
def test_a_transformer_that_diffusers_does_not_cache_is_refused(name):
    sd3 = built("StableDiffusion3Pipeline")
    before = fingerprint(sd3.model)
    with pytest.raises(CommandError, match="no caches for SD3Transformer2DModel"), PEERS[name].apply(sd3.pipe):
        drawn(sd3)
    assert differences(before, fingerprint(sd3.model)) == set()


def test_a_cache_that_finds_nothing_is_refused():
    """CogView4's attention is not called as TaylorSeer looks for it."""
    made = built("CogView4Pipeline")
    with pytest.raises(CommandError, match="nothing to act on in CogView4"), PEERS["taylorseer"].apply(made.pipe):
        drawn(made)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("first-block-cache:thresh=1", CommandError, "threshold"),
        ("first-block-cache:threshold=-1", SettingError, "FirstBlock.threshold is -1"),
        ("spectrum:window=3", CommandError, "takes no settings"),
        ("taylorseer@0.5", CommandError, "@ goes with"),
    ],
)
def test_bad_settings_of_peers_get_a_sentence(text, error, words):
    with pytest.raises(error, match=words):
        parse_variant(text)


def test_spectrum_keeps_each_texts_calls_apart(flux):
    """True CFG. With one text twice the two calls of a step return the same, so with histories apart the guidance changes nothing."""
    given = flux.given
    twice = {f"negative_{name}": given[name] for name in ("prompt_embeds", "pooled_prompt_embeds")}
    with PEERS["spectrum"].apply(flux.pipe):
        one, both = flux.draw(), flux.draw(true_cfg_scale=3.0, **twice)
    torch.testing.assert_close(one, both)


@pytest.mark.parametrize(
    ("name", "turned"), [("FluxPipeline", False), ("AuraFlowPipeline", False), ("Lumina2Pipeline", True), ("ZImagePipeline", True)]
)
def test_spectrum_knows_the_sign_of_a_velocity(name, turned):
    from lib_accel_lab.spectrum import _is_turned

    made, calls = built(name), []
    handle = made.model.register_forward_pre_hook(lambda module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    made.draw()
    handle.remove()
    level, each = levels_of(made.pipe.scheduler)[1], len(calls) // STEPS
    assert _is_turned(*calls[each], Noise("flow", level)) is turned
