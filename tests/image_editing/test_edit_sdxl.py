"""`edit_images` with two text encoders, pooled text and pictures that are not square."""

import models
import numpy as np
import pytest
import torch
from PIL import Image

from lib_accel import LocalBlend, SettingError, sample
from lib_accel.image_editing import starting, text
from lib_accel.image_editing.editing import draw_edits

SOURCE, EDITED = "a red circle on a gray wall", "a red square on a gray wall"


@pytest.fixture(scope="module")
def pipe():
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(sample.model_folder() / "tokenizer")
    shape = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": models.WIDTH}
    ids = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPTextConfig(**shape, **ids)
    torch.manual_seed(0)
    parts = {"tokenizer": tokenizer, "tokenizer_2": tokenizer}
    parts |= {"text_encoder": CLIPTextModel(config).eval(), "text_encoder_2": CLIPTextModelWithProjection(config).eval()}
    return models.pipeline(models.diffusers_unet_sdxl(), "StableDiffusionXLPipeline", **parts)


def test_a_pipeline_with_two_encoders(pipe):
    blend = LocalBlend("circle", "square", threshold=0.9, start=0)
    size = {"width": 96, "height": 64}
    made = draw_edits(pipe, SOURCE, EDITED, 3, steps=3, guidance=5.0, local_blend=blend, **size)
    plain = pipe(
        SOURCE, generator=torch.Generator().manual_seed(3), num_inference_steps=3, guidance_scale=5.0, output_type="latent", **size
    )
    assert (made.latents[0] - plain.images[0]).abs().max() < 1e-3 * plain.images[0].abs().max()
    mask = made.masks[1]
    assert mask.shape == (8, 12)
    assert torch.equal(made.latents[1][:, mask == 0], made.latents[0][:, mask == 0])
    assert made.pictures[1].size == (96, 64)
    assert made.reports[0].as_dict()["methods"][0]["layers_by_effect"]["cross-attention"] == made.reports[0].as_dict()["sites"]


def test_long_prompts_of_two_encoders(pipe):
    filler = " ".join(["very"] * 80)
    made = draw_edits(pipe, f"a {filler} red circle", f"a {filler} blue circle", 3, steps=2, guidance=5.0, width=64, height=64)
    assert not torch.equal(made.latents[1], made.latents[0])


def test_embeddings_are_the_pipelines_own(pipe):
    given = text.embeddings(pipe, [SOURCE, EDITED], "blue")
    own = pipe.encode_prompt([SOURCE, EDITED], device="cpu", do_classifier_free_guidance=True, negative_prompt=["blue"] * 2)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    for name, value in zip(names, own):
        torch.testing.assert_close(given[name], value)
    empty = pipe.encode_prompt([SOURCE], device="cpu", do_classifier_free_guidance=True)
    for name, value in zip(names, empty):
        torch.testing.assert_close(text.embeddings(pipe, [SOURCE], "")[name], value)


@pytest.mark.parametrize("how", ["ddim", "negative_prompt"])
def test_real_pictures(pipe, how):
    from PIL import Image

    made = draw_edits(pipe, SOURCE, EDITED, 3, steps=2, guidance=3.0, image=Image.new("RGB", (96, 64), "red"), inversion=how)
    assert made.pictures[1].size == (96, 64)


def test_latents_that_are_shifted_are_so_in_an_edit_of_a_real_picture(pipe, monkeypatch):
    """As the pipeline's decoder puts mean and spread back (Playground 2.5)."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    before, own = starting.encode_picture(pipe, picture), pipe.vae.config
    shifted = {**own, "latents_mean": [0.5, -1.0, 0.0, 2.0], "latents_std": [2.0, 1.0, 4.0, 0.5]}
    monkeypatch.setattr(pipe.vae, "_internal_dict", type(own)(shifted))
    mean, std = (torch.tensor(shifted[name]).view(1, 4, 1, 1) for name in ("latents_mean", "latents_std"))
    wanted = (before / own.scaling_factor - mean) * own.scaling_factor / std
    torch.testing.assert_close(starting.encode_picture(pipe, picture), wanted)


def test_an_inversion_is_told_of_the_sizes_that_the_call_tells(pipe, monkeypatch):
    """The U-Net sees the same where the picture is taken back to noise and where it is drawn."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    seen, unet = [], pipe.unet.forward

    def forward(*args, **given):
        seen.extend(map(tuple, given["added_cond_kwargs"]["time_ids"].tolist()))
        return unet(*args, **given)

    monkeypatch.setattr(pipe.unet, "forward", forward)
    sizes = {"original_size": (32, 48), "crops_coords_top_left": (4, 8), "target_size": (128, 96)}
    negative = {"negative_original_size": (16, 16), "negative_target_size": (24, 24)}
    given = {"steps": 2, "guidance": 5.0, "image": picture}
    draw_edits(pipe, SOURCE, EDITED, 3, inversion="ddim", pipeline=sizes, **given)
    assert set(seen) == {(32, 48, 4, 8, 128, 96)}
    del seen[:]
    draw_edits(pipe, SOURCE, EDITED, 3, inversion="null_text", pipeline=sizes | negative, **given)
    assert set(seen) == {(32, 48, 4, 8, 128, 96), (16, 16, 0, 0, 24, 24)}


def test_texts_of_the_second_encoder_alone_are_a_sentence(pipe):
    with pytest.raises(SettingError, match=r"none of prompt, .*, prompt_2,"):
        draw_edits(pipe, SOURCE, EDITED, 3, pipeline={"prompt_2": "blue"})
    with pytest.raises(SettingError, match="negative_prompt_2 is 'blue'; it goes with prompts of one chunk"):
        draw_edits(pipe, SOURCE, EDITED + " and a circle" * 40, 3, pipeline={"negative_prompt_2": "blue"})
