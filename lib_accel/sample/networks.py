"""Build the sample model's networks from the sizes in `architecture`; training and the random stand-in use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .architecture import AUTOENCODER, SCHEDULER, TEXT_ENCODER, TOKENS, UNETS


def build_tokenizer(folder: Path):
    """The CLIPTokenizer in `folder` (vocab.json and merges.txt)."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True, model_max_length=TOKENS)


def build_text_encoder(tokenizer):
    """A CLIPTextModel with fresh weights for the tokenizer's vocabulary."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **TEXT_ENCODER,
        )
    )


def build_unet(shape: str = "small"):
    """A U-Net with fresh weights, of a shape in `architecture.UNETS`."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**UNETS[shape])


def build_autoencoder():
    """The autoencoder with fresh weights."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**AUTOENCODER)


def build_scheduler():
    """Euler on Stable Diffusion's scaled-linear schedule.

    Not PNDM, which SD 1.x checkpoints come with: at guidance 5 it gives this small model garish colours and second objects.
    """
    from diffusers import EulerDiscreteScheduler

    others = ("clip_sample", "set_alpha_to_one")  # what other samplers read from the same file
    return EulerDiscreteScheduler(timestep_spacing="leading", **{key: value for key, value in SCHEDULER.items() if key not in others})


def assemble(autoencoder, text_encoder, tokenizer, unet):
    """Put the networks into a StableDiffusionPipeline without a safety checker."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def random_pipeline(tokenizer_folder: Path, seed: int = 0):
    """A pipeline with seeded random weights. The caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer(tokenizer_folder)
        networks = build_autoencoder().eval(), build_text_encoder(tokenizer).eval(), build_unet().eval()
    return assemble(networks[0], networks[1], tokenizer, networks[2])


def read_pipeline(folder: Path):
    """The pipeline in a diffusers folder, float32, from local files alone."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(str(folder), local_files_only=True, low_cpu_mem_usage=False)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within it, diffusers and transformers print neither hints nor progress bars; afterwards they do as before."""
    import diffusers.utils.logging
    import transformers.utils.logging

    loggings = diffusers.utils.logging, transformers.utils.logging
    before = [(logging.get_verbosity(), logging.is_progress_bar_enabled()) for logging in loggings]
    try:
        for logging in loggings:
            logging.set_verbosity_error()
            logging.disable_progress_bar()
        yield
    finally:
        for logging, (verbosity, bars) in zip(loggings, before):
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
