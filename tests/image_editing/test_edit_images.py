"""`edit_images` on a whole pipeline with random weights: equal noise, batches, local blend, real pictures, long prompts, bad input."""

import functools

import numpy as np
import pytest
import torch
from PIL import Image

from lib_accel import LocalBlend, Replace, Reweight, SettingError, edit_images
from lib_accel.image_editing import inversion, starting, text
from lib_accel.image_editing.editing import draw_edits
from lib_accel.prompt_to_prompt import feathered

SOURCE, SQUARE, STAR = "a red circle on a gray wall", "a red square on a gray wall", "a large red star on a gray wall"
BLEND = LocalBlend("circle", ("square", "star"), threshold=0.97, start=0)
SMALL = {"steps": 2, "width": 64, "height": 64, "guidance": 5.0}


def scheduled(pipe, name):
    import diffusers

    more = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    return getattr(diffusers, name).from_config(pipe.scheduler.config, **more)


def draw(pipe, edits, seed=1, source=SOURCE, **more):
    return draw_edits(pipe, source, edits, seed, **(SMALL | more))


def plain(pipe, prompt, seed, size=64, **more):
    given = {"num_inference_steps": 2, "guidance_scale": 5.0, "width": size, "height": size, "output_type": "latent"}
    return pipe(prompt, generator=torch.Generator().manual_seed(seed), **(given | more)).images[0]


def assert_close(a, b, tolerance=1e-3):
    assert (a - b).abs().max() < tolerance * b.abs().max()


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "PNDMScheduler"])
def test_the_source_is_what_the_seed_draws_and_without_windows_the_edit_is_too(pipe, name, monkeypatch):
    """Also with samplers that add noise: every picture gets the same."""
    monkeypatch.setattr(pipe, "scheduler", scheduled(pipe, name))
    made = draw(pipe, [SQUARE], seed=5, cross_replace=0, self_replace=0)
    assert_close(made.latents[0], plain(pipe, SOURCE, 5))
    assert_close(made.latents[1], plain(pipe, SQUARE, 5))
    assert [picture.size for picture in made.pictures] == [(64, 64), (64, 64)]


def test_the_same_prompt_edited_throughout_is_the_source(pipe):
    made = draw(pipe, [Replace(SOURCE, cross_replace=1.0, self_replace=1.0)], self_layers="all")
    assert_close(made.latents[1], made.latents[0], 1e-4)


def test_batches_of_any_size_make_the_same_pictures(pipe):
    edits = [SQUARE, STAR, Reweight({"red": -2})]
    together, apart = draw(pipe, edits, local_blend=BLEND), draw(pipe, edits, local_blend=BLEND, pictures_at_once=2)
    for one, other in zip(together.latents, apart.latents):
        assert_close(one, other)
    assert together.kinds == ["source", "replace", "refine", "reweight"]
    assert (len(together.reports), len(apart.reports)) == (1, 3)
    assert not torch.equal(together.latents[1], together.latents[0])


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DDIMScheduler"])
def test_blended_from_the_start_the_rest_is_the_sources(pipe, name, monkeypatch):
    monkeypatch.setattr(pipe, "scheduler", scheduled(pipe, name))
    made = draw(pipe, [SQUARE, STAR], local_blend=BLEND, cross_replace=0.4, self_replace=0, composite=True)
    for latents, mask, picture in zip(made.latents[1:], made.masks[1:], made.pictures[1:]):
        assert 0 < mask.mean() < 1
        assert (latents - made.latents[0])[:, mask == 0].abs().max() <= 1e-3
        outside = feathered(mask, (64, 64)).numpy() == 0
        difference = abs(np.asarray(picture, dtype=int) - np.asarray(made.pictures[0], dtype=int))
        assert not outside.any() or difference[outside].max() <= 1


def test_words_are_shown_where_they_look(pipe):
    made = draw(pipe, [SQUARE, STAR], heat_maps=("circle", "red"), pictures_at_once=2)
    assert made.heat["red"].shape == (3, 8, 8)
    assert made.heat["circle"][0].any()
    assert not made.heat["circle"][1:].any()


def test_words_that_only_some_batches_have_are_shown_there(pipe):
    made = draw(pipe, [SQUARE, STAR], heat_maps=("star", "square"), pictures_at_once=2)
    assert list(made.heat) == ["star", "square"]
    assert [bool(heat.any()) for heat in made.heat["square"]] == [False, True, False]
    assert [bool(heat.any()) for heat in made.heat["star"]] == [False, False, True]
    assert list(draw(pipe, [SQUARE], heat_maps="circle").heat) == ["circle"]


def test_seeds_of_any_size(pipe):
    huge = [edit_images(pipe, SOURCE, SQUARE, seed, **SMALL)[0].tobytes() for seed in (7, 7 + 2**64, -3, 2**200 + 8)]
    assert huge[0] == huge[1]
    assert len(set(huge)) == 3


def test_prompts_beyond_one_chunk(pipe):
    filler = " ".join(["very"] * 80)
    made = draw(pipe, [f"a {filler} blue circle"], source=f"a {filler} red circle", steps=2)
    assert made.kinds[1] == "replace"
    assert not torch.equal(made.latents[1], made.latents[0])
    given = text.embeddings(pipe, [SOURCE, f"a {filler} red circle"], "")
    assert given["prompt_embeds"].shape[:2] == given["negative_prompt_embeds"].shape[:2] == (2, 154)
    own = pipe.encode_prompt(SOURCE, "cpu", 1, True, "")
    torch.testing.assert_close(given["prompt_embeds"][0, :77], own[0][0])
    torch.testing.assert_close(given["negative_prompt_embeds"][0, :77], own[1][0])


def test_one_long_prompt_changes_no_other_picture(pipe):
    """Where one text has two chunks, every batch has them: the source is the same picture in each."""
    edits = ["a red square on a gray wall", "a red star on a gray wall, " + " ".join(["very"] * 80) + " bright"]
    blend = LocalBlend("circle", ("square", "star"), threshold=0.9, start=0)
    together, apart = (draw(pipe, edits, steps=2, pictures_at_once=count, local_blend=blend, width=192, height=192) for count in (4, 2))
    for first, second in zip(together.latents, apart.latents):
        assert_close(second, first)
    outside = apart.masks[2] == 0
    assert outside.any() and torch.equal(apart.latents[2][:, outside], apart.latents[0][:, outside])


def test_a_long_edit_of_a_real_picture(pipe, picture, monkeypatch):
    monkeypatch.setattr(inversion, "INNER_STEPS", 1)
    for how in inversion.INVERSIONS:
        made = draw(pipe, ["a red square, " + " ".join(["very"] * 80) + " bright"], image=picture, inversion=how, steps=2)
        assert len(made.pictures) == 2 and torch.isfinite(made.latents[1]).all(), how


def test_an_own_kind_of_pipeline_without_one_for_pictures_is_a_sentence(pipe, picture):
    own = type("Own", (type(pipe),), {})(**pipe.components, requires_safety_checker=False)
    assert len(draw_edits(own, SOURCE, [SQUARE], 1, **SMALL).pictures) == 2
    with pytest.raises(SettingError, match=r"^strength is given; diffusers knows no image-to-image pipeline for Own, so use inversion\.$"):
        draw_edits(own, SOURCE, [SQUARE], 1, image=picture, strength=0.5, **SMALL)


def test_the_source_seen_on_the_edited_picture(pipe):
    """bloc97: with the same prompt twice nothing is edited, and picture 0 is the source undisturbed."""
    settings = {"variant": "bloc97", "source_latent": "shared", "window_rule": "noise", "cross_replace": (0, 1), "self_replace": (0.7, 1)}
    made = draw(pipe, [Replace(SOURCE), SQUARE], self_layers="all", pictures_at_once=5, **settings)
    assert_close(made.latents[1], made.latents[0])
    assert_close(made.latents[0], plain(pipe, SOURCE, 1))
    assert not torch.equal(made.latents[2], draw(pipe, [SQUARE], self_layers="all", **settings | {"source_latent": "own"}).latents[1])


def test_a_real_picture_with_strength(pipe, picture, monkeypatch):
    made = draw(pipe, [SQUARE], image=picture, strength=0.7, steps=4, cross_replace=1.0)
    assert made.reports[0].as_dict()["methods"][0]["steps"] == 2
    assert made.reports[0].as_dict()["steps"] == 2
    monkeypatch.setattr(pipe, "scheduler", scheduled(pipe, "HeunDiscreteScheduler"))
    twice = draw(pipe, [SQUARE], image=picture, strength=0.7, steps=6, cross_replace=0.5, self_replace=0)
    # Half of the four steps that are run, though Heun calls the U-Net seven times.
    assert [twice.reports[0].as_dict()[name] for name in ("steps", "unet_calls")] == [4, 7]
    assert twice.reports[0].as_dict()["methods"][0]["steps"] == 2
    monkeypatch.undo()
    weak = draw(pipe, [SQUARE], image=picture, strength=0.3, steps=4)
    encoded = starting.encode_picture(pipe, picture)[0]
    assert (weak.latents[0] - encoded).abs().mean() < (made.latents[0] - encoded).abs().mean()


def test_inversion_goes_back_along_the_scheduler(pipe, picture, monkeypatch):
    """With a prediction that does not depend on the latents, the pipeline's own steps arrive at the picture again."""
    noise, before = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), pipe.scheduler
    monkeypatch.setattr(inversion.Predictor, "__call__", lambda *args: noise)
    encoded = starting.encode_picture(pipe, picture)
    with inversion.ddim(pipe):
        found = inversion.invert(pipe, "ddim", encoded, text.embeddings(pipe, [SOURCE], ""), 8, 1.0, (64, 64))
        latents = found.noise
        for timestep in pipe.scheduler.timesteps:
            latents = pipe.scheduler.step(noise, timestep, latents).prev_sample
    torch.testing.assert_close(latents, encoded, atol=1e-4, rtol=1e-3)
    assert pipe.scheduler is before


def test_a_unet_that_predicts_pictures_is_not_inverted(pipe, picture, monkeypatch):
    import diffusers

    monkeypatch.setattr(pipe, "scheduler", diffusers.DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="sample"))
    with pytest.raises(SettingError, match=r"must predict 'epsilon' or 'v_prediction' for it, not 'sample'\.$"):
        draw(pipe, [SQUARE], image=picture, inversion="ddim")
    assert pipe.scheduler.config.prediction_type == "sample"


def test_the_sources_text_in_the_negative_prompts_place_undoes_guidance(pipe, picture):
    """Negative-prompt inversion: the guided source is the unguided one."""

    def source(**more):
        return draw(pipe, [SQUARE], image=picture, **more).latents[0]

    unguided = source(inversion="ddim", guidance=1.0)
    assert_close(source(inversion="negative_prompt", guidance=7.0), unguided)
    assert not torch.allclose(source(inversion="ddim", guidance=7.0), unguided, rtol=0.01)


def test_null_texts_follow_the_inversion(pipe, picture, monkeypatch):
    """Guided steps with fitted texts come nearer to where the inversion was than with the pipeline's own."""
    monkeypatch.setattr(inversion, "INNER_STEPS", 3)
    with inversion.ddim(pipe):
        given = text.embeddings(pipe, [SOURCE], "")
        encoded = starting.encode_picture(pipe, picture)
        found = inversion.invert(pipe, "null_text", encoded, given, 2, 7.0, (64, 64))
        predictor = inversion.Predictor(pipe, given, (64, 64))

        def end(negatives):
            latents = found.noise
            for time, negative in zip(pipe.scheduler.timesteps.tolist(), negatives):
                without, with_text = predictor(latents, time, negative), predictor(latents, time, given["prompt_embeds"])
                latents = predictor.step(latents, without + 7.0 * (with_text - without), time)
            return (latents - encoded).square().mean()

        with torch.no_grad():
            assert end(found.negative) < end([given["negative_prompt_embeds"]] * 2)
    assert len(found.negative) == 2


BAD = {
    "no edits": ([], {}),
    "no edit": (None, {}),
    "not an edit": ([3], {}),
    "unknown word": ([Reweight({"zebra": 2})], {}),
    "unknown window": ([SQUARE], {"cross_replace": {"zebra": 0.4}}),
    "unknown heat map": ([SQUARE], {"heat_maps": ("circle", "zebra")}),
    "heat maps": ([SQUARE], {"heat_maps": (0.5,)}),
    "source": ([SQUARE], {"source": 3}),
    "no step to run": ([SQUARE], {"image": Image.new("RGB", (64, 64)), "strength": 0.3}),
    "an argument of ours": ([SQUARE], {"pipeline": {"num_images_per_prompt": 2}}),
    "methods": ([SQUARE], {"methods": 3}),
    "clip skip of a long prompt": ([" ".join(["a"] * 80)], {"pipeline": {"clip_skip": 1}}),
    "arguments": ([SQUARE], {"pipeline": [2]}),
    "unknown blend": ([SQUARE], {"local_blend": LocalBlend("zebra")}),
    "unknown blend of the edit": ([SQUARE], {"local_blend": LocalBlend("circle", "zebra")}),
    "reversed": ([SQUARE], {"cross_replace": (0.8, 0.2)}),
    "beyond": ([SQUARE], {"self_replace": 1.5}),
    "word counts": ([Replace("a red square")], {}),
    "seed": ([SQUARE], {"seed": 1.5}),
    "kind": ([SQUARE], {"edit": "swap"}),
    "steps": ([SQUARE], {"steps": 0}),
    "guidance": ([SQUARE], {"guidance": float("nan")}),
    "size": ([SQUARE], {"width": 65}),
    "one at once": ([SQUARE], {"pictures_at_once": 1}),
    "composite": ([SQUARE], {"composite": True}),
    "blend": ([SQUARE], {"local_blend": "circle"}),
    "strength without picture": ([SQUARE], {"strength": 0.5}),
    "inversion without picture": ([SQUARE], {"inversion": "ddim"}),
    "picture without strength": ([SQUARE], {"image": Image.new("RGB", (64, 64))}),
    "mode": ([SQUARE], {"image": Image.new("L", (64, 64)), "strength": 0.5}),
    "no picture": ([SQUARE], {"image": "cat.png", "strength": 0.5}),
    "sides": ([SQUARE], {"image": Image.new("RGB", (60, 64)), "strength": 0.5, "width": None, "height": None}),
    "other size": ([SQUARE], {"image": Image.new("RGB", (96, 64)), "strength": 0.5}),
    "strength": ([SQUARE], {"image": Image.new("RGB", (64, 64)), "strength": 0}),
    "inversion": ([SQUARE], {"image": Image.new("RGB", (64, 64)), "inversion": "magic"}),
    "shared blend": ([SQUARE], {"source_latent": "shared", "local_blend": LocalBlend("circle")}),
    "published beyond a chunk": ([" ".join(["a"] * 80)], {"variant": "published", "edit": "refine"}),
}


@pytest.mark.parametrize(("edits", "more"), BAD.values(), ids=BAD)
def test_bad_input_is_a_sentence_before_anything_is_drawn(pipe, edits, more, monkeypatch):
    drawing = functools.wraps(type(pipe).__call__)(lambda *args, **kwargs: pytest.fail("something was drawn"))
    monkeypatch.setattr(type(pipe), "__call__", drawing)
    settings = SMALL | {"seed": 1, "source": SOURCE} | more
    with pytest.raises(SettingError) as caught:
        edit_images(pipe, edits=edits, **settings)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_only_pipelines_from_text_are_taken(pipe):
    from diffusers import AutoPipelineForImage2Image

    for other, name in (
        (pipe.unet, "UNet2DConditionModel"),
        (AutoPipelineForImage2Image.from_pipe(pipe), "StableDiffusionImg2ImgPipeline"),
    ):
        with pytest.raises(SettingError, match=rf"^pipe is {name}; it must be a text-to-image pipeline"):
            edit_images(other, SOURCE, SQUARE, 1)
