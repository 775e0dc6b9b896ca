"""Every pipeline class of the installed diffusers that draws with a U-Net or transformer of ours, built tiny from configs.

Classes are discovered in diffusers' sources; parts are made by the names and annotations of their arguments, calls by the names of theirs.
A class is in where a plain call of what was built returns a picture.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pathlib
import re
from collections.abc import Callable
from typing import Any

import diffusers
import models
import numpy as np
import packed
import torch
from PIL import Image

from lib_accel import sample
from lib_accel.backends import BACKENDS

STEPS, SIDE = 4, 64
TEXT = "a red circle on a gray wall"
DDIM, EULER = "DDIMScheduler", "EulerDiscreteScheduler"
# Ways to build and call one, until one works. Channels of the U-Net: latents; with a mask and a picture; with a picture; with depth; of an
# upscaler. Its scheduler, unless it names its own. What it returns.
WAYS = (
    *((channels, DDIM, "latent") for channels in (4, 9, 8, 5, 7)),
    *((channels, EULER, "latent") for channels in (4, 8)),
    (4, DDIM, "np"),
)


@functools.cache
def sources(kinds: str = r"UNet2DConditionModel|PixArtTransformer2DModel") -> list[str]:
    """The modules of diffusers whose sources speak of our kinds of models. None is imported: together they take half a minute."""
    root = pathlib.Path(diffusers.__file__).parent / "pipelines"
    files = [file for file in sorted(root.rglob("pipeline_*.py")) if re.search(kinds, file.read_text(encoding="utf-8"))]
    return [".".join(("diffusers.pipelines", *file.relative_to(root).with_suffix("").parts)) for file in files]


def classes(modules: list[str]) -> list[type]:
    """The pipelines in these modules that ask for one of our kinds of models."""
    found = []
    for name in modules:
        try:
            module = importlib.import_module(name)
        except Exception:  # It needs a package that is not here.
            continue
        for one in vars(module).values():
            if inspect.isclass(one) and one.__module__ == name and issubclass(one, diffusers.DiffusionPipeline):
                asked = _arguments(one.__init__)
                if "UNet2DConditionModel" in _kind(asked.get("unet")) or "PixArt" in _kind(asked.get("transformer")):
                    found.append(one)
    return found


class Built:
    """A pipeline, and the arguments of its calls."""

    def __init__(self, pipe: Any, given: dict[str, Any]) -> None:
        self.pipe, self.given = pipe, given
        self.model = pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer
        # What tests found out about a plain call.
        self.plain: Any = None

    def draw(self, **more: Any) -> torch.Tensor:
        """What a call returns, as one tensor."""
        seeded = {"generator": torch.Generator().manual_seed(3)} if "generator" in _arguments(type(self.pipe).__call__) else {}
        if hasattr(self.pipe, "blocks"):
            # A modular pipeline's call takes whatever its blocks ask for.
            seeded = {"generator": torch.Generator().manual_seed(3)}
        torch.manual_seed(4)
        return _tensor(self.pipe(**self.given, **seeded, **more))


def build(kind: type) -> tuple[Built | None, str]:
    """``kind`` built so that a plain call of it works; None with the last error where it cannot be."""
    why: list[str] = []
    for channels, schedule, output in WAYS:
        try:
            built = Built(_pipeline(kind, channels, schedule), _call(kind, output))
            if not any(backend.matches(built.model) for backend in BACKENDS):
                return None, f"{type(built.model).__name__} is none of ours"
            # Pictures that are no numbers (CycleDiffusion with these weights) equal nothing, not even themselves.
            if built.draw().isfinite().all():
                return built, ""
            why.append("its plain pictures are not finite")
        except Exception as error:
            why.append(f"{type(error).__name__}: {error}")
        # Whatever it is, other channels do not change it.
        if why[-1] in why[:-1] or why[-1].startswith("LookupError"):
            break
    return None, why[0]


# -- parts ----------------------------------------------------------------------------------------------------------------------------


def _pipeline(kind: type, channels: int, schedule: str) -> Any:
    asked = _arguments(kind.__init__)
    xl = "text_encoder_2" in asked
    makers = {name: _maker(name, argument, xl, schedule) for name, argument in asked.items()}
    unet = (models.diffusers_unet_sdxl if xl else models.diffusers_unet)(in_channels=channels) if "unet" in asked else None
    pipe = kind(**{name: make(unet) for name, make in makers.items() if make is not None})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _maker(name: str, argument: inspect.Parameter, xl: bool, schedule: str) -> Callable[[Any], Any] | None:
    """Makes what is given as ``argument`` for a U-Net; None for its default. LookupError for kinds of parts that are not made here."""
    kind = _kind(argument)
    if name == "unet":
        return lambda unet: unet
    if name in ("requires_safety_checker", "requires_aesthetics_score", "add_watermarker", "force_zeros_for_empty_prompt"):
        return lambda _: False
    if name.endswith("scheduler"):
        own = re.findall(r"\b(\w+Scheduler)\b", kind)
        return lambda _: models.scheduler(own[0] if len(own) == 1 and hasattr(diffusers, own[0]) else schedule)
    if "CLIPTextModel" in kind:
        return lambda _: text_part(name, xl)
    if "T5" in kind:
        return lambda _: None
    for word, make in PARTS.items():
        if word in kind:
            return make
    if argument.default is not inspect.Parameter.empty:
        return None
    if name in ("safety_checker", "feature_extractor", "image_encoder"):
        return lambda _: None
    raise LookupError(f"no part for {name}: {kind}")


@functools.cache
def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(sample.model_folder() / "tokenizer")


@functools.cache
def _text_encoder(name: str, width: int) -> packed.Packed:
    import transformers

    tokenizer = _tokenizer()
    shape = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(projection_dim=models.WIDTH, **shape, **ids)
    return packed.Packed(getattr(transformers, name)(config).eval())


# SDXL's.
TEXT_PARTS = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")


def text_part(name: str, xl: bool = True) -> Any:
    """One of `TEXT_PARTS`. xl: of two encoders, whose texts are joined."""
    if name.startswith("tokenizer"):
        return _tokenizer()
    width = models.WIDTH // 2 if xl else models.WIDTH
    return _text_encoder("CLIPTextModelWithProjection" if name.endswith("_2") else "CLIPTextModel", width).unpacked()


def _pixart(_: Any) -> Any:
    shape = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3, "sample_size": 8, "out_channels": 8}
    text = {"cross_attention_dim": 16, "caption_channels": models.WIDTH, "use_additional_conditions": False}
    return models.built(diffusers.PixArtTransformer2DModel, shape | text, 0)


def _motion(_: Any) -> Any:
    shape = {"block_out_channels": (32, 32, 32), "motion_layers_per_block": 1, "motion_num_attention_heads": 2, "motion_norm_num_groups": 8}
    return models.built(diffusers.MotionAdapter, shape, 0)


def _t2i(_: Any) -> Any:
    return models.built(diffusers.T2IAdapter, {"in_channels": 3, "channels": [32, 32, 32], "num_res_blocks": 1, "downscale_factor": 8}, 0)


def _controlnet(unet: Any) -> Any:
    return models.lively(diffusers.ControlNetModel.from_unet(unet, conditioning_channels=3), 5)


# By a word of the annotation, the longer first.
PARTS = {
    "AutoencoderKL": lambda _: models.vae(),
    "CLIPTokenizer": lambda _: _tokenizer(),
    "PixArtTransformer2DModel": _pixart,
    "MotionAdapter": _motion,
    "T2IAdapter": _t2i,
    "ControlNetModel": _controlnet,
}


# -- calls ----------------------------------------------------------------------------------------------------------------------------


def picture(side: int = SIDE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def _mask() -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (0, 0, SIDE // 2, SIDE))
    return mask


def _call(kind: type, output: str) -> dict[str, Any]:
    """The arguments of a call. LookupError where one is asked for that is not made here."""
    torch.manual_seed(5)
    made: dict[str, Any] = {
        "prompt": TEXT,
        "num_inference_steps": STEPS,
        "guidance_scale": 5.0,
        "height": SIDE,
        "width": SIDE,
        "output_type": output,
        "num_frames": 2,
    }
    if any("T5" in _kind(argument) for argument in _arguments(kind.__init__).values()):
        # No tiny one is at hand: its texts are given.
        text = torch.randn(2, 1, models.TEXT, models.WIDTH, generator=torch.Generator().manual_seed(7))
        whole = torch.ones(1, models.TEXT)
        made |= {"prompt": None, "negative_prompt": None, "prompt_embeds": text[0], "negative_prompt_embeds": text[1]}
        made |= {"prompt_attention_mask": whole, "negative_prompt_attention_mask": whole, "use_resolution_binning": False}
    # An upscaler's latents are as large as the picture that it is given.
    small = SIDE // 4 if kind.__name__ == "StableDiffusionUpscalePipeline" else SIDE
    wanted = {"image": picture(small), "mask_image": _mask(), "control_image": picture(), "source_prompt": TEXT}
    wanted |= {"video": [picture()] * 2, "conditioning_frames": [picture()] * 2}
    asked = _arguments(kind.__call__)
    given = {name: value for name, value in made.items() if name in asked}
    for name, argument in asked.items():
        # Pictures have no default that means anything.
        if name in wanted and (argument.default in (None, inspect.Parameter.empty)):
            given[name] = wanted[name]
        elif argument.default is inspect.Parameter.empty and name not in given:
            raise LookupError(f"nothing to give as {name}")
    return given


def _tensor(out: Any) -> torch.Tensor:
    if isinstance(out, torch.Tensor):
        return out
    for name in ("images", "frames", "prediction", 0):
        value = out[0] if name == 0 else getattr(out, name, None)
        if value is not None:
            break
    value = value[0] if isinstance(value, list) and isinstance(value[0], list) else value
    if isinstance(value, list) and not isinstance(value[0], torch.Tensor):
        value = [torch.from_numpy(np.array(one, dtype=np.float32)) for one in value]
    return torch.stack(value) if isinstance(value, list) else torch.as_tensor(value)


def _arguments(function: Any) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: one for name, one in inspect.signature(function).parameters.items() if name != "self" and one.kind in kinds}


def _kind(argument: inspect.Parameter | None) -> str:
    annotation = argument.annotation if argument is not None else ""
    return getattr(annotation, "__name__", None) if inspect.isclass(annotation) else str(annotation)
