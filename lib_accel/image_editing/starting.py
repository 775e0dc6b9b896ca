"""Where a batch of edited pictures starts: the same noise for all, or a real picture's latents."""

from __future__ import annotations

from typing import Any

import torch

from ..core.fields import SettingError, plain
from .reach import execution_device


def checked_seed(seed: Any) -> int:
    """``seed`` as a generator takes it; whole numbers of any size, the same number for the same seed. SettingError for others."""
    seed = plain(seed)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise SettingError(f"seed is {seed!r}; it must be a whole number.")
    return seed % (1 << 64)


def checked_size(pipe: Any, width: int | None, height: int | None, image: Any) -> tuple[int, int]:
    """(width, height) in pixels: given, the picture's, or the model's own. SettingError when they do not fit the model or each other, and
    where one is missing that the model does not say."""
    multiple = pipe.vae_scale_factor
    if image is not None:
        check_picture(image, multiple)
        sizes = image.size
    else:
        own = pipe.unet.config.sample_size
        own = (own, own) if own is None or isinstance(own, int) else tuple(own)[::-1]
        sizes = tuple(side and side * multiple for side in own)
    width, height = plain(width), plain(height)
    for name, given, at in (("width", width, 0), ("height", height, 1)):
        if given is None:
            continue
        if isinstance(given, bool) or not isinstance(given, int) or given < multiple or given % multiple:
            raise SettingError(f"{name} is {given!r}; it must be a multiple of {multiple} from {multiple} on.")
        if image is not None and given != image.size[at]:
            raise SettingError(f"{name} is {given}; it must be {image.size[at]}, the picture's.")
    if None in (width or sizes[0], height or sizes[1]):
        raise SettingError(f"{'width' if width is None else 'height'} is None; this U-Net names no size of its own, so it must be given.")
    return width or sizes[0], height or sizes[1]


def check_picture(image: Any, multiple: int) -> None:
    """SettingError unless ``image`` is a PIL picture in RGB whose sides are multiples of ``multiple``."""
    mode, size = getattr(image, "mode", None), getattr(image, "size", None)
    if mode != "RGB":
        raise SettingError(f"image is {type(image).__name__} of mode {mode!r}; it must be a picture of mode 'RGB' (image.convert('RGB')).")
    if min(size) < multiple or any(side % multiple for side in size):
        raise SettingError(f"image is {size[0]}x{size[1]}; its sides must be multiples of {multiple}.")


def equal_noise(pipe: Any, count: int, width: int, height: int, seed: int) -> tuple[torch.Tensor, list[torch.Generator]]:
    """Latents [count, channels, height/8, width/8], the same for all, and a generator for each that has just drawn them: samplers that
    add noise add the same to all, and each gets what the seed alone would give it.
    """
    shape = (1, pipe.vae.config.latent_channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor)
    generators = [torch.Generator().manual_seed(seed) for _ in range(count)]
    drawn = [torch.randn(shape, generator=generator, dtype=pipe.unet.dtype) for generator in generators]
    return torch.cat(drawn).to(execution_device(pipe)), generators


def image_to_image(pipe: Any) -> Any:
    """diffusers' image-to-image pipeline with the parts of ``pipe``. SettingError where it has none."""
    from diffusers import AutoPipelineForImage2Image

    try:
        made = AutoPipelineForImage2Image.from_pipe(pipe)
    except ValueError as error:
        name = type(pipe).__name__
        raise SettingError(f"strength is given; diffusers knows no image-to-image pipeline for {name}, so use inversion.") from error
    made.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return made


def encode_picture(pipe: Any, image: Any) -> torch.Tensor:
    """Latents [1, channels, h, w] of a PIL picture: the mean of what the autoencoder says, scaled as the U-Net knows it."""
    vae, pixels = pipe.vae, pipe.image_processor.preprocess(image)
    half = vae.dtype
    upcast = half != torch.float32 and getattr(vae.config, "force_upcast", False)
    try:
        if upcast:
            torch.nn.Module.to(vae, torch.float32)
        with torch.no_grad():
            encoded = vae.encode(pixels.to(execution_device(pipe), vae.dtype))
            # Tiny autoencoders tell the latents themselves.
            latents = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latents
    finally:
        if upcast:
            torch.nn.Module.to(vae, half)
    mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if hasattr(pipe, "text_encoder_2") and None not in (mean, std):
        # SDXL's pipelines put them back where they decode.
        mean, std = (torch.tensor(values).view(1, -1, 1, 1).to(latents) for values in (mean, std))
        latents = (latents - mean) / std
    return (latents * vae.config.scaling_factor).to(pipe.unet.dtype)
