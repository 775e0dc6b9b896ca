"""Tiny random pipelines of diffusion transformers with texts and pictures, as folders that `save_pretrained` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import models
import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel

from lib_accel import sample

WIDTH, HEAD, CHANNELS = 32, 16, 4
WORDS = ("a", "red", "blue", "star", "ring", "photo", "of", "the", "lighthouse", "on", "rocky", "coast", "at", "dusk")


def flux() -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=4 * CHANNELS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=HEAD,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 4, 4),
    )
    texts = {"text_encoder": _clip(transformers.CLIPTextModel), "tokenizer": _clip_words()}
    texts |= {"text_encoder_2": _t5(), "tokenizer_2": _t5_words()}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return diffusers.FluxPipeline(scheduler=scheduler, vae=_vae(), transformer=models.lively(transformer), **texts)


def sd3() -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=2,
        attention_head_dim=HEAD,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=2 * HEAD,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=32,
    )
    made = transformers.CLIPTextModelWithProjection
    texts = {"text_encoder": _clip(made), "tokenizer": _clip_words(), "text_encoder_2": _clip(made), "tokenizer_2": _clip_words()}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    texts |= {"text_encoder_3": _t5(2 * WIDTH), "tokenizer_3": _t5_words()}
    return diffusers.StableDiffusion3Pipeline(models.lively(transformer), scheduler, _vae(), **texts)


def pixart() -> Any:
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        in_channels=CHANNELS,
        out_channels=2 * CHANNELS,
        num_layers=2,
        attention_head_dim=HEAD,
        num_attention_heads=2,
        cross_attention_dim=2 * HEAD,
        caption_channels=WIDTH,
    )
    scheduler = diffusers.DPMSolverMultistepScheduler()
    return diffusers.PixArtSigmaPipeline(_t5_words(), _t5(), _vae(), models.lively(transformer), scheduler)


MADE = {"flux": flux, "sd3": sd3, "pixart": pixart}


def saved(name: str, folder: Path) -> Path:
    """The folder of the pipeline ``name`` below ``folder``, written once."""
    path = folder / name
    if not path.exists():
        torch.manual_seed(2)
        MADE[name]().save_pretrained(path)
    return path


def _vae() -> Any:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    sizes = {"block_out_channels": (4,) * 4, "norm_num_groups": 2, "layers_per_block": 1, "latent_channels": CHANNELS}
    return diffusers.AutoencoderKL(**blocks, **sizes, shift_factor=0.0, scaling_factor=1.0).eval()


def _clip(made: Any) -> Any:
    sizes = {"hidden_size": WIDTH, "projection_dim": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = _clip_words()
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    return made(transformers.CLIPTextConfig(vocab_size=len(words), **sizes, **ends)).eval()


def _clip_words() -> Any:
    """The sample model's."""
    return transformers.CLIPTokenizer.from_pretrained(Path(sample.__file__).parent / "model" / "tokenizer")


def _t5(width: int = WIDTH) -> Any:
    sizes = {"d_model": width, "d_kv": HEAD, "d_ff": 64, "num_layers": 2, "num_heads": 2, "feed_forward_proj": "gated-gelu"}
    return transformers.T5EncoderModel(transformers.T5Config(vocab_size=len(WORDS) + 3, **sizes)).eval()


def _t5_words() -> Any:
    """A tokenizer that knows a few words."""
    known = {word: index for index, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    made = Tokenizer(WordLevel(known, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
