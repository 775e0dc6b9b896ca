"""Fixed random input for one call of a U-Net of any library, of any size."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..core.sites import named
from .errors import CommandError

TEXT_TOKENS = 77
PIXART_TEXT_TOKENS = 120


def knows(model: nn.Module) -> bool:
    """Whether input for a call can be made: of U-Nets and PixArt's transformer; others are called as their pipelines do."""
    return hasattr(model, "down_blocks") or hasattr(model, "input_blocks") or named(model, "PixArtTransformer2DModel")


class UNetInputs:
    """Latents of ``size`` x ``size`` pixels, text and whatever else ``unet`` takes, for ``batch`` rows; calling it runs the U-Net.

    size: a multiple of 8. The values are a function of ``seed`` alone, whatever the device. CommandError for U-Nets that are told of
    other things than a text.
    """

    def __init__(self, unet: nn.Module, size: int, batch: int, dtype: torch.dtype, device: str, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.batch, self._device, self._is_diffusers = batch, device, hasattr(unet, "down_blocks")
        self._is_pixart = named(unet, "PixArtTransformer2DModel")

        def noise(*dims: int) -> torch.Tensor:
            return torch.randn(dims, generator=generator).to(device, dtype)

        channels, width = _widths(unet)
        self.latents = noise(batch, channels, size // 8, size // 8)
        self._text = noise(batch, PIXART_TEXT_TOKENS if self._is_pixart else TEXT_TOKENS, width)
        self._extra: dict[str, Any] = {}
        if self._is_pixart:
            # As its pipeline calls it: always with a mask, and with the size of the picture where the model asks for it.
            conditions = {"resolution": torch.full((batch, 2), float(size)), "aspect_ratio": torch.ones(batch, 1)}
            self._extra["added_cond_kwargs"] = {key: value.to(device, dtype) for key, value in conditions.items()}
            self._extra["encoder_attention_mask"] = torch.ones(batch, PIXART_TEXT_TOKENS, device=device, dtype=dtype)
            return
        if not self._is_diffusers:
            if getattr(unet, "num_classes", None) is not None:
                self._extra = {"y": noise(batch, _first_linear(unet.label_emb).in_features)}
            return
        config = unet.config
        for name in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type"):
            if getattr(config, name, None) not in (None, "text_proj"):
                raise CommandError(f"the U-Net has {name} {getattr(config, name)!r}; it must be one of a text-to-image model.")
        if config.addition_embed_type == "text_time":
            count = 6 if config.projection_class_embeddings_input_dim > 5 * config.addition_time_embed_dim else 5
            pooled = config.projection_class_embeddings_input_dim - count * config.addition_time_embed_dim
            sizes = torch.tensor([[size, size, 0, 0, size, size][:count]] * batch).to(device, dtype)
            self._extra["added_cond_kwargs"] = {"text_embeds": noise(batch, pooled), "time_ids": sizes}
        if config.time_cond_proj_dim:
            self._extra["timestep_cond"] = noise(batch, config.time_cond_proj_dim)

    def __call__(self, unet: nn.Module, latents: torch.Tensor | None = None, timestep: float = 500) -> torch.Tensor:
        """What ``unet`` predicts for ``latents`` (its own without) at ``timestep``."""
        x = self.latents if latents is None else latents
        if self._is_diffusers:
            return unet(x, timestep, self._text, **self._extra).sample
        steps = torch.full((self.batch,), float(timestep), device=self._device)
        if self._is_pixart:
            return unet(x, self._text, steps, **self._extra).sample
        return unet(x, steps, context=self._text, **self._extra)


def _widths(unet: nn.Module) -> tuple[int, int]:
    """Channels of the latents, width of the text."""
    if named(unet, "PixArtTransformer2DModel"):
        return unet.config.in_channels, unet.config.caption_channels
    if hasattr(unet, "down_blocks"):
        projected = unet.config.encoder_hid_dim if unet.config.encoder_hid_dim_type == "text_proj" else None
        return unet.config.in_channels, projected or unet.config.cross_attention_dim
    text = next(module for name, module in unet.named_modules() if name.endswith("attn2.to_k"))
    return unet.input_blocks[0][0].in_channels, text.in_features


def _first_linear(module: nn.Module) -> nn.Linear:
    return next(m for m in module.modules() if isinstance(m, nn.Linear))
