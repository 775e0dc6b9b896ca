"""U-Nets of the well-known shapes with random weights, for timing: the time of a layer does not depend on what it learned."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .errors import CommandError

# AUTOMATIC1111's WebUI, in whose folder of extensions we may be, has no diffusers but LDM's classes.
HOSTS_LDM = Path(__file__).parents[4] / "repositories" / "stable-diffusion-stability-ai"


@dataclass(frozen=True)
class Architecture:
    """A U-Net shape. context: width of the text context. pooled: width of SDXL's extra vector (`y` of LDM/SGM), 0 for none."""

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    head_dim: int | None
    heads: int | None
    context: int
    linear: bool = False
    pooled: int = 0


@dataclass(frozen=True)
class Transformer:
    """PixArt's shape: blocks of one width on one grid. context: width of the text; sample: latent side that it was trained for."""

    layers: int
    heads: int
    head_dim: int
    context: int
    sample: int


ARCHITECTURES: dict[str, Architecture | Transformer] = {
    "sd15": Architecture((320, 640, 1280, 1280), (1, 1, 1, 0), None, 8, 768),
    "sd21": Architecture((320, 640, 1280, 1280), (1, 1, 1, 0), 64, None, 1024, linear=True),
    "sdxl": Architecture((320, 640, 1280), (0, 2, 10), 64, None, 2048, linear=True, pooled=2816),
    "pixart": Transformer(28, 16, 72, 4096, 128),
}


def at_hand() -> str:
    """The backend whose classes can be imported here: ``diffusers``, or in a WebUI's Python that lacks it ``ldm``."""
    if importlib.util.find_spec("diffusers") is None:
        if importlib.util.find_spec("ldm") is None and HOSTS_LDM.is_dir():
            sys.path.append(str(HOSTS_LDM))
        if importlib.util.find_spec("ldm") is not None:
            return "ldm"
    return "diffusers"


def build_unet(name: str, backend: str, seed: int = 0, device: str = "cpu") -> nn.Module:
    """The U-Net of architecture ``name`` for ``backend`` (``ldm`` | ``diffusers``), random weights, eval mode, in float32.

    device: ``cpu``, or ``meta`` for the shapes alone. ``ldm`` knows neither SDXL nor PixArt: CommandError.
    """
    torch.manual_seed(seed)
    with torch.device(device):
        unet = {"ldm": _ldm_unet, "diffusers": _diffusers_unet}[backend](ARCHITECTURES[name]).eval().requires_grad_(False)
    if device == "meta":
        return unet
    for parameter in unet.parameters():
        # Zero-initialised layers would make everything behind them a multiplication by zero.
        if not parameter.is_meta and parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return unet


def _ldm_unet(shape: Architecture | Transformer) -> nn.Module:
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

    if isinstance(shape, Transformer) or shape.pooled:
        raise CommandError("--backend is 'ldm'; it has no SDXL U-Net and no PixArt, take diffusers.")
    resolutions = [2**level for level, depth in enumerate(shape.depths) if depth]
    return UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=shape.channels[0],
        attention_resolutions=resolutions,
        num_res_blocks=2,
        channel_mult=[c // shape.channels[0] for c in shape.channels],
        num_heads=shape.heads or -1,
        num_head_channels=shape.head_dim or -1,
        use_spatial_transformer=True,
        use_linear_in_transformer=shape.linear,
        transformer_depth=1,
        context_dim=shape.context,
        use_checkpoint=False,
        legacy=False,
    )


def _diffusers_unet(shape: Architecture | Transformer) -> nn.Module:
    if isinstance(shape, Transformer):
        return _pixart(shape)
    from diffusers import UNet2DConditionModel

    down = tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in shape.depths)
    up = tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(shape.depths))
    extra: dict[str, Any] = {}
    if shape.pooled:
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": shape.pooled,
        }
    return UNet2DConditionModel(
        block_out_channels=shape.channels,
        down_block_types=down,
        up_block_types=up,
        transformer_layers_per_block=tuple(max(depth, 1) for depth in shape.depths),
        attention_head_dim=shape.heads or tuple(c // shape.head_dim for c in shape.channels),
        cross_attention_dim=shape.context,
        use_linear_projection=shape.linear,
        layers_per_block=2,
        **extra,
    )


def _pixart(shape: Transformer) -> nn.Module:
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        num_attention_heads=shape.heads,
        attention_head_dim=shape.head_dim,
        in_channels=4,
        out_channels=8,
        num_layers=shape.layers,
        norm_num_groups=32,
        cross_attention_dim=shape.heads * shape.head_dim,
        caption_channels=shape.context,
        sample_size=shape.sample,
    )
