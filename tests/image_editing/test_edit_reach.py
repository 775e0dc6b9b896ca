"""What an edit does not reach is said before anything is drawn; offloaded weights and inference mode are worked with."""

import copy
import warnings

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from lib_accel import SettingError, edit_images, sample
from lib_accel.image_editing import inversion
from lib_accel.image_editing.editing import draw_edits

SOURCE, SQUARE = "a red circle on a gray wall", "a red square on a gray wall"
SMALL = {"steps": 3, "width": 64, "height": 64, "guidance": 5.0}


def blocks(unet):
    return [module for name, module in unet.named_modules() if name.endswith("transformer_blocks.0")]


def calls_of(unet):
    seen = []
    return seen, unet.register_forward_pre_hook(lambda *args: seen.append(1))


class Own(AttnProcessor2_0):
    """Somebody's own processor."""


def modular():
    from diffusers import ModularPipeline, StableDiffusionXLAutoBlocks

    pipe = StableDiffusionXLAutoBlocks().init_pipeline()
    assert isinstance(pipe, ModularPipeline)
    return pipe


@pytest.mark.parametrize("kind", ["the U-Net", "its blocks", "processors"])
def test_attention_out_of_reach_is_a_sentence(pipe, kind):
    pipe = copy.copy(pipe)
    own = pipe.unet
    unet = copy.deepcopy(own)
    pipe.register_modules(unet=unet)
    if kind == "processors":
        unet.set_attn_processor(Own())
    for module in {"the U-Net": [unet], "its blocks": blocks(unet), "processors": []}[kind]:
        module._compiled_call_impl = lambda *args, module=module, **kwargs: module._call_impl(*args, **kwargs)
    seen, handle = calls_of(unet)
    with pytest.raises(SettingError, match=r"nothing of its attention can be edited: .*(compiled|attention processor Own)"):
        edit_images(pipe, SOURCE, SQUARE, 1, **SMALL)
    handle.remove()
    assert not seen
    pipe.register_modules(unet=own)


def test_rows_that_nobody_knows_are_a_sentence_before_a_picture_is_drawn(pipe):
    """Perturbed-attention guidance adds rows of its own."""
    other = diffusers.StableDiffusionPAGPipeline(**pipe.components, requires_safety_checker=False, pag_applied_layers=["mid"])
    other.set_progress_bar_config(disable=True)
    before = dict(other.unet.attn_processors)
    seen, handle = calls_of(other.unet)
    with pytest.raises(SettingError, match="StableDiffusionPAGPipeline; the edit would change nothing: it is not known which rows"):
        edit_images(other, SOURCE, SQUARE, 1, **SMALL)
    handle.remove()
    other.unet.set_attn_processor(before)
    assert len(seen) == 1
    assert len(edit_images(other, SOURCE, SQUARE, 1, **SMALL, pipeline={"pag_scale": 0.0})) == 2


@pytest.mark.parametrize("kind", ["modular", "latent consistency", "frames"])
def test_calls_that_cannot_be_told_what_an_edit_needs(pipe, kind):
    if kind == "modular":
        other = modular()
        other.register_components(**{name: getattr(pipe, name) for name in ("unet", "vae", "scheduler", "tokenizer", "text_encoder")})
    elif kind == "latent consistency":
        other = diffusers.LatentConsistencyModelPipeline(**pipe.components, requires_safety_checker=False)
    else:

        class Frames(type(pipe)):
            def __call__(self, num_frames=16, **kwargs):
                pytest.fail("something was drawn")

        other = Frames(**pipe.components, requires_safety_checker=False)
    with pytest.raises(SettingError, match="text-to-image pipeline of Stable Diffusion or SDXL"):
        edit_images(other, SOURCE, SQUARE, 1, **SMALL)


def test_layers_that_are_kept_are_warned_of(pipe):
    unet = pipe.unet
    before = dict(unet.attn_processors)
    name = next(name for name in before if "attn2" in name)
    unet.set_attn_processor({**before, name: Own()})
    try:
        with pytest.warns(UserWarning, match="attention processor Own"):
            edited = edit_images(pipe, SOURCE, SQUARE, 1, **SMALL)
    finally:
        unet.set_attn_processor(before)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert edit_images(pipe, SOURCE, SQUARE, 1, **SMALL)[1].tobytes() != edited[1].tobytes()


@pytest.mark.parametrize("more", [{}, {"strength": 0.7}, {"inversion": "negative_prompt"}], ids=["text", "strength", "inversion"])
def test_weights_that_are_offloaded_one_after_the_other(pipe, picture, more):
    """Sequential offloading: between calls the weights lie nowhere, and the device of the U-Net says nothing."""
    accelerate = pytest.importorskip("accelerate")
    given = SMALL | more | ({"image": picture, "width": None, "height": None} if more else {})
    wanted = draw_edits(pipe, SOURCE, SQUARE, 1, **given).latents
    other = type(pipe)(**{name: copy.deepcopy(part) for name, part in pipe.components.items()}, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    for part in (other.unet, other.vae, other.text_encoder):
        accelerate.cpu_offload(part, "cpu")
    assert other.unet.device.type == "meta"
    for one, expected in zip(draw_edits(other, SOURCE, SQUARE, 1, **given).latents, wanted):
        torch.testing.assert_close(one, expected)


def test_null_texts_under_inference_mode(pipe, picture, monkeypatch):
    monkeypatch.setattr(inversion, "INNER_STEPS", 1)
    given = SMALL | {"steps": 2, "image": picture, "inversion": "null_text"}
    wanted = draw_edits(pipe, SOURCE, SQUARE, 1, **given).latents
    with torch.inference_mode():
        for one, expected in zip(draw_edits(pipe, SOURCE, SQUARE, 1, **given).latents, wanted):
            torch.testing.assert_close(one, expected)
        other = type(pipe)(**(pipe.components | {"unet": copy.deepcopy(pipe.unet)}), requires_safety_checker=False)
    with pytest.raises(SettingError, match="under inference_mode"):
        draw_edits(other, SOURCE, SQUARE, 1, **given)


@pytest.fixture(scope="module")
def controlled(pipe):
    torch.manual_seed(0)
    other = diffusers.StableDiffusionControlNetPipeline(
        **pipe.components, controlnet=diffusers.ControlNetModel.from_unet(pipe.unet), requires_safety_checker=False
    )
    other.set_progress_bar_config(disable=True)
    return other


@pytest.mark.parametrize("how", inversion.INVERSIONS)
def test_an_inversion_that_would_leave_the_controlnet_out_is_a_sentence(controlled, picture, how):
    given = SMALL | {"image": picture, "inversion": how, "pipeline": {"image": picture}}
    seen, handle = calls_of(controlled.unet)
    with pytest.raises(SettingError, match=rf"inversion is '{how}'; it runs the U-Net without the pipeline's ControlNet, so use strength"):
        draw_edits(controlled, SOURCE, SQUARE, 1, **given)
    handle.remove()
    assert not seen


@pytest.mark.parametrize("told", [{"encoder_hid_dim_type": "ip_image_proj"}, {"time_cond_proj_dim": 8}], ids=["IP-Adapter", "guidance"])
def test_so_is_one_that_would_leave_something_else_out(pipe, picture, told, monkeypatch):
    config = pipe.unet.config
    monkeypatch.setattr(pipe.unet, "_internal_dict", type(config)({**config, **told}))
    with pytest.raises(SettingError, match=r"it runs the U-Net without the (IP-Adapter|guidance scale)"):
        draw_edits(pipe, SOURCE, SQUARE, 1, **SMALL, image=picture, inversion="ddim")


def test_a_controlnet_beside_a_picture_to_edit(controlled, picture):
    """By strength it follows its own picture."""
    given = SMALL | {"image": picture, "strength": 0.7}
    with pytest.raises(SettingError, match="a ControlNet's is 'control_image'"):
        draw_edits(controlled, SOURCE, SQUARE, 1, **given, pipeline={"image": picture})
    assert len(draw_edits(controlled, SOURCE, SQUARE, 1, **given, pipeline={"control_image": picture}).pictures) == 2


def test_arguments_that_the_pipeline_would_pass_over_are_a_sentence(pipe):
    with pytest.raises(SettingError, match=r"^pipeline has 'guidance_rescael'; the call of StableDiffusionPipeline takes no such argument"):
        draw_edits(pipe, SOURCE, SQUARE, 1, **SMALL, pipeline={"guidance_rescael": 0.7})


def test_a_unet_without_a_size_of_its_own(pipe, monkeypatch):
    config = pipe.unet.config
    monkeypatch.setattr(pipe.unet, "_internal_dict", type(config)({**config, "sample_size": None}))
    assert len(draw_edits(pipe, SOURCE, SQUARE, 1, **SMALL).pictures) == 2
    with pytest.raises(SettingError, match=r"^height is None; this U-Net names no size of its own, so it must be given\.$"):
        draw_edits(pipe, SOURCE, SQUARE, 1, **SMALL | {"height": None})


def test_an_inversion_says_nothing_of_the_schedulers_file(pipe, picture, monkeypatch, caplog):
    """Diffusers complains of every entry of a configuration that is another scheduler's."""
    from diffusers.utils import logging

    monkeypatch.setattr(pipe, "scheduler", diffusers.EulerDiscreteScheduler.from_pretrained(sample.model_folder() / "scheduler"))
    logging.enable_propagation()
    try:
        draw_edits(pipe, SOURCE, SQUARE, 1, **SMALL, image=picture, inversion="ddim")
    finally:
        logging.disable_propagation()
    assert "were passed to" not in caplog.text
