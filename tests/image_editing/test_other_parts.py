"""`edit_images` on pipelines some of whose parts are others: autoencoders, schedulers, a LoRA in the text encoder."""

import diffusers
import pytest
import torch

from lib_accel import SettingError, sample
from lib_accel.image_editing import starting
from lib_accel.image_editing.editing import draw_edits

SOURCE, SQUARE = "a red circle on a gray wall", "a red square on a gray wall"
SMALL = {"steps": 2, "width": 64, "height": 64, "guidance": 5.0}


def test_a_tiny_autoencoder_says_latents_and_no_distribution(pipe, picture, monkeypatch):
    torch.manual_seed(0)
    blocks = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    tiny = diffusers.AutoencoderTiny(**blocks, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4, latent_channels=4)
    monkeypatch.setattr(pipe, "vae", tiny)
    made = draw_edits(pipe, SOURCE, [SQUARE], 1, image=picture, strength=0.6, **SMALL)
    assert len(made.pictures) == 2
    with torch.no_grad():
        own = tiny.encode(pipe.image_processor.preprocess(picture)).latents * tiny.config.scaling_factor
    torch.testing.assert_close(starting.encode_picture(pipe, picture), own)


def test_a_scheduler_without_betas_is_not_inverted(pipe, picture, monkeypatch):
    monkeypatch.setattr(pipe, "scheduler", diffusers.EDMEulerScheduler())
    with pytest.raises(SettingError, match=r"inversion is 'ddim'; .*EDMEulerScheduler"):
        draw_edits(pipe, SOURCE, [SQUARE], 1, image=picture, inversion="ddim", **SMALL)
    assert isinstance(pipe.scheduler, diffusers.EDMEulerScheduler)


@pytest.mark.parametrize("inverted", [False, True])
def test_the_scale_of_a_lora_holds_where_texts_are_encoded_here(picture, inverted):
    """Long prompts, and inversions, whose own calls of the U-Net have it, too."""
    from peft import LoraConfig

    pipe = sample.load_pipeline(random=True)
    source, more = (SOURCE, {"image": picture, "inversion": "ddim"}) if inverted else (SOURCE + ", a red circle on a gray wall" * 12, {})

    def drawn(**given):
        return draw_edits(pipe, source, [SQUARE], 1, **SMALL, **more, **given).latents

    plain = drawn()
    torch.manual_seed(0)
    pipe.text_encoder.add_adapter(LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"]))
    pipe.unet.add_adapter(LoraConfig(r=4, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    full = drawn()
    assert not torch.allclose(full[0], plain[0], atol=0.1)
    for one, other in zip(drawn(pipeline={"cross_attention_kwargs": {"scale": 0.0}}), plain):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert torch.equal(drawn()[0], full[0]), "afterwards it is what it was"
