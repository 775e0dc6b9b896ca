"""Tiny models of the real classes, seeded, whose attention matters to their output.

Latents are [rows, 4, h, w]; text is [rows, TEXT, WIDTH].
"""

from __future__ import annotations

import functools
import inspect
import sys
from types import SimpleNamespace

import host_packages
import packed
import pytest
import torch
import torch.nn.functional as F
from torch import nn

TEXT, WIDTH = 5, 16


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """``model`` in evaluation mode with seeded random parameters; output layers initialised to zero become alive too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * (1.5 / parameter[0].numel() ** 0.5))
            else:
                parameter.copy_(0.1 * noise + (not name.endswith("bias")))
    return model.eval().requires_grad_(False)


_BUILT: dict[tuple, packed.Packed] = {}


def built(model_class: type, shape: dict, seed: int) -> nn.Module:
    """A `lively` model of this class and shape: built once, a copy for everybody, which takes a fraction of the time."""
    key = (model_class, repr(sorted(shape.items())), seed)
    if key not in _BUILT:
        model = lively(model_class(**shape), seed)
        if getattr(sys.modules.get(model_class.__module__), model_class.__qualname__, None) is not model_class:
            return model  # a test's own class, which pickle cannot name
        _BUILT[key] = packed.Packed(model)
    return _BUILT[key].unpacked()


def ldm_unet(seed: int = 0, unet_class: type | None = None, **changes) -> nn.Module:
    """SD1-like LDM U-Net (or ``unet_class``): attention at levels 0 and 1 and in the middle (level 2); 7 blocks of 2 heads."""
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

    shape = {
        "image_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "attention_resolutions": [1, 2],
        "num_res_blocks": 1,
        "channel_mult": [1, 1, 1],
        "num_heads": 2,
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": WIDTH,
        "use_checkpoint": False,
        "legacy": False,
    }
    return built(unet_class or UNetModel, shape | changes, seed)


def ldm_unet_sd2(seed: int = 0, **changes) -> nn.Module:
    """SD2-like: linear projections, the head width given instead of the head count, checkpointed blocks."""
    sd2 = {"num_heads": -1, "num_head_channels": 16, "use_linear_in_transformer": True, "use_checkpoint": True}
    return ldm_unet(seed, **(sd2 | changes))


def sgm_unet(seed: int = 0, unet_class: type | None = None, **changes) -> nn.Module:
    """SDXL-like SGM U-Net (our twin's, or ``unet_class``): no attention at level 0, depths 1 and 2, extra vector `y`."""
    import sgm_twin

    shape = {
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "attention_resolutions": [2, 4],
        "num_res_blocks": 1,
        "channel_mult": [1, 1, 1],
        "transformer_depth": [0, 1, 2],
        "num_head_channels": 16,
        "use_spatial_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": WIDTH,
        "use_linear_in_transformer": True,
        "context_dim": WIDTH,
        "use_checkpoint": False,
    }
    return built(unet_class or sgm_twin.UNetModel, shape | changes, seed)


def forge_unet(seed: int = 0, **changes) -> nn.Module:
    """SD1-like U-Net of the Forge family (our twin's): attention at levels 0 and 1 and in the middle (level 2); 7 blocks of 2 heads."""
    import forge_twin

    return built(forge_twin.IntegratedUNet2DConditionModel, {"context_dim": WIDTH} | changes, seed)


def forge_unet_sdxl(seed: int = 0, **changes) -> nn.Module:
    """SDXL-like: no attention at level 0, depths 1 and 2, linear projections, extra vector `y`."""
    sdxl = {"transformer_depth": (0, 1, 2), "adm_in_channels": WIDTH, "use_linear_in_transformer": True}
    return forge_unet(seed, **(sdxl | changes))


class ForgeEngine:
    """A holder of the shape of Forge's engines: no module, ``.forge_objects.unet.model.diffusion_model``."""

    def __init__(self, unet: nn.Module) -> None:
        wrapper = SimpleNamespace(diffusion_model=unet, predictor=SimpleNamespace(prediction_type="epsilon"))
        self.forge_objects = SimpleNamespace(unet=SimpleNamespace(model=wrapper))


def latent_diffusion(unet: nn.Module) -> nn.Module:
    """A holder of the shape of LDM's LatentDiffusion and SGM's engines: ``.model.diffusion_model``."""
    holder = nn.Module()
    holder.model = nn.Module()
    holder.model.diffusion_model = unet
    return holder


def diffusers_unet(seed: int = 0, **changes) -> nn.Module:
    """SD1.x-like diffusers U-Net: attention at levels 0 and 1 and in the middle (level 2); 7 blocks of 2 heads."""
    from diffusers import UNet2DConditionModel

    shape = {
        "sample_size": 16,
        "block_out_channels": (32, 32, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    return built(UNet2DConditionModel, shape | changes, seed)


def diffusers_unet_sd2(seed: int = 0, **changes) -> nn.Module:
    """SD2.x-like: linear projections, a head count per level, attention up-cast."""
    sd2 = {"use_linear_projection": True, "attention_head_dim": (2, 4, 4), "upcast_attention": True}
    return diffusers_unet(seed, **(sd2 | changes))


def diffusers_unet_sdxl(seed: int = 0, **changes) -> nn.Module:
    """SDXL-like: no attention at level 0, several blocks per transformer, size and pooled text as extra input."""
    sdxl = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
    }
    return diffusers_unet(seed, **(sdxl | changes))


def vae(seed: int = 1) -> nn.Module:
    from diffusers import AutoencoderKL

    shape = {
        "block_out_channels": (8, 8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 4,
    }
    return built(AutoencoderKL, shape, seed)


def scheduler(name: str = "DDIMScheduler", **settings):
    import diffusers

    usual = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    wanted = getattr(diffusers, name)
    if "clip_sample" in inspect.signature(wanted).parameters:
        usual["clip_sample"] = False
    return wanted(**(usual | settings))


def pipeline(unet: nn.Module | None = None, kind: str = "StableDiffusionPipeline", schedule: str = "DDIMScheduler", **more):
    """A pipeline without tokenizer and text encoder; give it prompt_embeds (see `prompt`)."""
    import diffusers

    parts = {"vae": vae(), "unet": unet or diffusers_unet(), "scheduler": scheduler(schedule), "text_encoder": None, "tokenizer": None}
    if "XL" in kind:
        parts |= {"text_encoder_2": None, "tokenizer_2": None, "force_zeros_for_empty_prompt": True}
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    built = getattr(diffusers, kind)(**(parts | more))
    built.set_progress_bar_config(disable=True)
    return built


def prompt(images: int = 1, pooled: bool = False) -> dict[str, torch.Tensor]:
    """Random embeddings of a prompt and of a negative prompt."""
    generator = torch.Generator().manual_seed(7)
    text, negative = torch.randn(2, images, TEXT, WIDTH, generator=generator)
    given = {"prompt_embeds": text, "negative_prompt_embeds": negative}
    if pooled:
        given["pooled_prompt_embeds"], given["negative_pooled_prompt_embeds"] = torch.randn(2, images, WIDTH, generator=generator)
    return given


def picture(pipe, steps: int = 5, seed: int = 3, size: int = 128, **more):
    """The latents [images, 4, size/8, size/8] that ``pipe`` arrives at."""
    given = prompt(pooled="XL" in type(pipe).__name__) | {"num_inference_steps": steps, "output_type": "latent", "guidance_scale": 5.0}
    if "Img2Img" not in type(pipe).__name__:
        given |= {"height": size, "width": size}
    return pipe(generator=torch.Generator().manual_seed(seed), **(given | more)).images


def inputs(rows: int = 2, h: int = 16, w: int = 16, dtype: torch.dtype = torch.float32, timestep: float = 999) -> SimpleNamespace:
    """Random latents, timesteps and text for one U-Net call."""
    generator = torch.Generator().manual_seed(11)
    return SimpleNamespace(
        latents=torch.randn(rows, 4, h, w, generator=generator).to(dtype),
        timestep=torch.full((rows,), float(timestep)),
        text=torch.randn(rows, TEXT, WIDTH, generator=generator).to(dtype),
    )


def call(unet: nn.Module, given: SimpleNamespace | None = None, **more) -> torch.Tensor:
    """The prediction of a U-Net of either library, without gradients."""
    given = given or inputs()
    with torch.no_grad():
        if hasattr(unet, "input_blocks"):
            if getattr(unet, "num_classes", None):
                more.setdefault("y", given.text[:, 0])
            return unet(given.latents, given.timestep, context=given.text, **more)
        if hasattr(unet, "caption_projection"):
            return unet(given.latents, given.text, given.timestep, encoder_attention_mask=torch.ones(given.text.shape[:2]), **more).sample
        if getattr(unet.config, "addition_embed_type", None):
            rows = given.latents.shape[0]
            extra = {"text_embeds": given.text[:, 0], "time_ids": torch.full((rows, 6), 64.0, dtype=given.latents.dtype)}
            more.setdefault("added_cond_kwargs", extra)
        return unet(given.latents, given.timestep, given.text, **more).sample


UNETS = {
    "ldm": ldm_unet,
    "ldm-sd2": ldm_unet_sd2,
    "sgm": sgm_unet,
    "forge": forge_unet,
    "forge-sdxl": forge_unet_sdxl,
    "diffusers": diffusers_unet,
    "diffusers-sd2": diffusers_unet_sd2,
    "diffusers-sdxl": diffusers_unet_sdxl,
}
if host_packages.host_folder():
    UNETS["host-ldm"] = lambda seed=0, **changes: ldm_unet(seed, host_packages.unet_class("ldm"), **changes)
    UNETS["host-sgm"] = lambda seed=0, **changes: sgm_unet(seed, host_packages.unet_class("sgm"), **changes)
BOTH = ("ldm", "diffusers")


def pixart_transformer(seed: int = 0, **changes) -> nn.Module:
    """PixArt-like: three blocks of two heads on one grid."""
    from diffusers import PixArtTransformer2DModel

    shape = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 3,
        "cross_attention_dim": 32,
        "caption_channels": WIDTH,
        "sample_size": 16,
        "use_additional_conditions": False,
    }
    return built(PixArtTransformer2DModel, shape | changes, seed)


# Every backend.
ALL = {**UNETS, "pixart": pixart_transformer}


def one_pass(unet: nn.Module, timesteps: tuple = (999, 399), **given) -> torch.Tensor:
    """[calls, rows, 4, h, w]: the predictions of a pass over ``timesteps``; ``given`` goes to `inputs`."""
    return torch.stack([call(unet, inputs(timestep=timestep, **given)) for timestep in timesteps])


@functools.cache
def plain_pass(kind: str, timesteps: tuple = (999, 399), h: int = 16, w: int = 16) -> torch.Tensor:
    """What `one_pass` gives of a fresh model of this kind in `ALL`: computed once, and not to be written to."""
    return one_pass(ALL[kind](), timesteps, h=h, w=w)


def in_dtype(unet: nn.Module, dtype: torch.dtype) -> nn.Module:
    """``unet`` in half precision as hosts run it; LDM's own code keeps its group norms and the timestep embedding in float32."""
    unet.to(dtype)
    if hasattr(unet, "input_blocks"):
        unet.dtype = dtype
        for module in unet.modules():
            if isinstance(module, nn.GroupNorm):
                module.float()
        unet.time_embed.register_forward_pre_hook(lambda _, args: (args[0].to(dtype),))
    return unet


def host_forward(seen: list, factor: float = 1.0):
    """A forward as hosts put it on LDM's CrossAttention class; notes the token counts that it was given in ``seen``."""

    def forward(self, x, context=None, mask=None, **kwargs):
        seen.append(x.shape[1])
        context = x if context is None else context
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.to_q(x), self.to_k(context), self.to_v(context)))
        out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.to_out(factor * out.transpose(1, 2).flatten(2))

    return forward


def computes(dtype):
    """Whether this torch multiplies and convolves ``dtype`` on the CPU."""
    try:
        torch.ones(1, 1, 1, 1, dtype=dtype) @ torch.ones(1, 1, dtype=dtype)
        torch.nn.functional.conv2d(torch.ones(1, 1, 1, 1, dtype=dtype), torch.ones(1, 1, 1, 1, dtype=dtype))
    except RuntimeError:
        return False
    return True


def need(dtype: torch.dtype) -> None:
    """Skip the test where this torch cannot compute in ``dtype`` on the CPU (float16 before 2.2)."""
    if not computes(dtype):
        pytest.skip(f"this torch has no {dtype} on the CPU")
