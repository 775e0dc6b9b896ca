"""PixArt's transformer: one grid, a mask on the text, a pipeline that does not tell whether it guides."""

import diffusers
import guided
import models
import pytest
import torch
from traces import differences, fingerprint

from lib_accel import GuidanceSkip, TGate, TokenMerging, accelerated


def pixart(seed=0, sigma=False):
    kind = diffusers.PixArtSigmaPipeline if sigma else diffusers.PixArtAlphaPipeline
    parts = {"vae": models.vae(), "transformer": models.pixart_transformer(seed), "scheduler": models.scheduler()}
    pipe = kind(tokenizer=None, text_encoder=None, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def rows_run(pipe):
    seen = []
    pipe.transformer.pos_embed.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    return seen


def picture(pipe, steps=5, images=1, **more):
    given = models.prompt(images)
    mask = torch.ones(images, models.TEXT)
    mask[:, -1] = 0
    given |= {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask, "negative_prompt": None}
    given |= {"num_inference_steps": steps, "height": 128, "width": 192, "output_type": "latent", "use_resolution_binning": False}
    return pipe(generator=torch.Generator().manual_seed(3), **(given | more)).images


@pytest.mark.parametrize("sigma", [False, True])
@pytest.mark.parametrize("images", [1, 2])
def test_gated(sigma, images):
    pipe = pixart(sigma=sigma)
    plain = picture(pipe, images=images)
    before = fingerprint(pipe.transformer)
    ran = rows_run(pipe)
    ran_before = fingerprint(pipe.transformer)
    with accelerated(pipe, TGate(gate=0.4)) as accelerator:
        gated = picture(pipe, images=images)
        assert torch.equal(picture(pipe, images=images), gated)
    assert ran == 2 * ([2 * images] * 2 + [images] * 3)
    account = guided.account(accelerator)
    assert (account["layers"], account["steps"], account["evaluations_saved"]) == (3, 6, 6 * images)
    assert accelerator.report().as_dict()["backend"] == "pixart"
    assert not torch.allclose(gated, plain, atol=1e-3)
    assert torch.equal(picture(pipe, images=images), plain)
    assert not differences(ran_before, fingerprint(pipe.transformer))
    assert differences(before, ran_before) == {"pos_embed"}


def test_unguided_rows_keep_apart():
    """Two pictures without guidance, begun from the same noise."""
    pipe = pixart()
    ran = rows_run(pipe)
    same = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    with accelerated(pipe, TGate(gate_step=1)) as accelerator:
        both = picture(pipe, images=2, guidance_scale=1.0, latents=same)
    assert ran == [2] * 5
    assert guided.account(accelerator)["evaluations_saved"] == 0
    assert not torch.allclose(both[0], both[1], atol=1e-3)


def test_the_direction_is_kept():
    """PixArt predicts a variance beside the noise; that stays as it is."""
    pipe = pixart()
    plain = picture(pipe)
    pictures = {}
    for reuse in (False, True):
        with accelerated(pipe, GuidanceSkip(when="after", after=0.6, reuse=reuse, order=0)) as accelerator:
            pictures[reuse] = picture(pipe)
        assert guided.account(accelerator)["evaluations_saved"] == 2
        assert guided.account(accelerator)["failed"] is None
    assert (pictures[True] - plain).abs().mean() < (pictures[False] - plain).abs().mean()


def test_what_an_interrupt_leaves_does_not_act():
    """Its blocks all have one grid, so no hook of a spatial transformer comes before them."""
    transformer = models.pixart_transformer()
    before = fingerprint(transformer)
    given = {"hidden_states": torch.randn(1, 4, 16, 16), "encoder_hidden_states": torch.randn(1, models.TEXT, models.WIDTH)}
    given |= {"timestep": torch.tensor([500]), "return_dict": False}
    given |= {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    with torch.no_grad():
        plain = transformer(**given)[0]
        with accelerated(transformer, TokenMerging(ratio=0.5)) as accelerator:
            merged = transformer(**given)[0]
            between = fingerprint(transformer)
            handle = transformer.transformer_blocks[-1].ff.register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                transformer(**given)
            handle.remove()
            calls = guided.account(accelerator)["layer_calls"]
            assert torch.equal(transformer.forward(**given)[0], plain) and not torch.equal(merged, plain)
            assert guided.account(accelerator)["layer_calls"] == calls
            assert not differences(between, fingerprint(transformer))
    assert not differences(before, fingerprint(transformer))
