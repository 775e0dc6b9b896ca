"""A diffusers pipeline around a U-Net of random weights, for timing what pipelines do: no text encoder, and latents for pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .errors import CommandError
from .inputs import TEXT_TOKENS


def pipeline_around(unet: nn.Module) -> Any:
    """A StableDiffusionPipeline, or the XL one where ``unet`` takes SDXL's vectors. CommandError for others."""
    import diffusers

    if not hasattr(unet, "down_blocks"):
        raise CommandError("--pipeline is given; it goes with --backend diffusers, and not with pixart.")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    autoencoder = diffusers.AutoencoderKL(block_out_channels=(4,) * 4, norm_num_groups=2, layers_per_block=1, **blocks)
    scheduler = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1)
    # Older diffusers compute where the first part of a pipeline is.
    parts = {"vae": autoencoder.eval().to(unet.device), "unet": unet, "scheduler": scheduler, "text_encoder": None, "tokenizer": None}
    if unet.config.addition_embed_type == "text_time":
        return diffusers.StableDiffusionXLPipeline(**parts, text_encoder_2=None, tokenizer_2=None)
    return diffusers.StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def embeddings_for(pipeline: Any, pictures: int) -> dict[str, Any]:
    """Arguments in place of a prompt, for a pipeline without a text encoder."""
    config = pipeline.unet.config
    generator = torch.Generator().manual_seed(0)

    def noise(*dims: int) -> torch.Tensor:
        return torch.randn((pictures, *dims), generator=generator).to(pipeline.unet.device, pipeline.unet.dtype)

    given = {"prompt_embeds": noise(TEXT_TOKENS, config.cross_attention_dim)}
    given["negative_prompt_embeds"] = noise(TEXT_TOKENS, config.cross_attention_dim)
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        given |= {"pooled_prompt_embeds": noise(pooled), "negative_pooled_prompt_embeds": noise(pooled)}
    return given | {"output_type": "latent"}
