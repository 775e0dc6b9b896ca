"""Every pipeline class of the installed diffusers that draws with a transformer, built tiny from configs where that can be done.

Classes are discovered in diffusers' sources; a transformer is made small by the names of its settings, texts are given as embeddings of one
width. Text encoders and decoders are left out. A class is in where a plain call of what was built returns latents.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pathlib
import re
import types
from typing import Any, NamedTuple

import diffusers
import models
import numpy as np
import torch
from PIL import Image

from lib_accel.backends import backend_for
from lib_accel.backends.transformer import TransformerBackend


class Way(NamedTuple):
    pictures: bool
    booleans: bool
    channels: float


WIDTH, TOKENS, HEAD, SIDE, STEPS = 32, 7, 16, 64, 8
MOST, LARGEST, CHANNELS = 4_000_000, 60_000, 16
# Ways to build and call one, until one works. Whether pictures are given that may be left out; what masks are made of; channels that the
# transformer takes, of its default.
WAYS = tuple(
    Way(pictures, booleans, channels)
    for pictures, booleans, channels in (
        (False, False, 1),
        (False, True, 1),
        (True, False, 1),
        (True, True, 1),
        (True, False, 2),
        (True, False, 2.25),
        (False, False, 2),
        (True, False, 6),
    )
)
# Settings of transformers by a piece of their names; the first that fits.
SMALL: tuple[tuple[str, Any], ...] = (
    ("attention_head_dim", HEAD),
    ("num_attention_heads", 2),
    ("num_key_value_heads", 1),
    ("num_kv_heads", 1),
    ("num_cross_attention_heads", 2),
    ("cross_attention_head_dim", HEAD),
    ("num_cross_attention_head", 2),
    ("num_heads", 2),
    ("n_heads", 2),
    ("n_kv_heads", 2),
    ("num_refiner_layers", 1),
    ("n_refiner_layers", 1),
    ("refiner_layers", 1),
    ("n_layers", 1),
    ("layers", 1),
    ("depth", 1),
    ("sample_height", 8),
    ("sample_width", 8),
    ("sample_frames", 5),
    ("max_text_seq_length", TOKENS),
    ("text_in_dim", WIDTH),
    ("num_blocks", 1),
    ("joint_attention_dim", WIDTH),
    ("cross_attention_dim", WIDTH),
    ("caption_projection_dim", 2 * HEAD),
    ("caption_channels", WIDTH),
    ("cap_feat_dim", WIDTH),
    ("text_embed", WIDTH),
    ("text_dim", WIDTH),
    ("in_text_dim", WIDTH),
    ("pooled_projection_dim", WIDTH),
    ("pooled", WIDTH),
    ("ffn_dim", 4 * HEAD),
    ("ff_dim", 4 * HEAD),
    ("time_embed_dim", 2 * HEAD),
    ("text_hidden", WIDTH),
    ("hidden_dim", 2 * HEAD),
    ("hidden_size", 2 * HEAD),
    ("inner_dim", 2 * HEAD),
    ("model_dim", 2 * HEAD),
)


# Those that some classes leave to their callers.
UNTOLD = {"in_channels": CHANNELS, "sample_size": 8, "patch_size": 2}


@functools.cache
def found() -> dict[str, str]:
    """Class -> module of every pipeline whose ``__init__`` asks for a transformer. None is imported."""
    root = pathlib.Path(diffusers.__file__).parent / "pipelines"
    classes = {}
    for file in sorted(root.rglob("pipeline_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            asks = [one for one in getattr(node, "body", ()) if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
            if isinstance(node, ast.ClassDef) and asks and any(a.arg == "transformer" for a in asks[0].args.args):
                classes[node.name] = ".".join(("diffusers.pipelines", *file.relative_to(root).with_suffix("").parts))
    return classes


class Built:
    """A pipeline of one transformer class, and the arguments of its calls."""

    def __init__(self, pipe: Any, given: dict[str, Any]) -> None:
        self.pipe, self.given, self.model = pipe, given, pipe.transformer

    def draw(self, **more: Any) -> torch.Tensor:
        """The latents that a call returns."""
        torch.manual_seed(4)
        asked = _arguments(type(self.pipe).__call__)
        seeded = {"generator": torch.Generator().manual_seed(3)} if "generator" in asked else {}
        out = self.pipe(**{**self.given, **seeded, **more})
        out = out if isinstance(out, (tuple, list)) else next(iter(out.values()))
        while isinstance(out, (tuple, list)):
            out = out[0]
        return torch.as_tensor(out)


def build(name: str) -> tuple[Built | None, str]:
    """The pipeline class ``name``; None with the first reason where it cannot be built or its plain calls fail."""
    why, seen = "", []
    for way in WAYS:
        try:
            kind = getattr(importlib.import_module(found()[name]), name)
            parts = {part: _part(part, one, kind, way) for part, one in _arguments(kind.__init__).items() if _is_needed(part, one)}
            if backend_for(parts["transformer"]).name != "transformer":
                return None, f"{type(parts['transformer']).__name__} is a model of another kind"
            pipe = kind(**parts)
            pipe.set_progress_bar_config(disable=True)
            built = Built(pipe, _call(kind, way))
            guard = built.model.register_forward_pre_hook(_is_cheap, with_kwargs=True)
            latents = built.draw()
            guard.remove()
            if latents.isfinite().all():
                return built, ""
            why = why or "its plain latents are not finite"
        except Exception as error:
            why = why or f"{type(error).__name__}: {error}".splitlines()[0][:160]
            seen.append(repr(error))
            if isinstance(error, (ImportError, LookupError)) or not str(error) or seen.count(seen[-1]) > 2:
                break
    return None, why


def _is_cheap(model: Any, args: tuple, kwargs: dict) -> None:
    sample = TransformerBackend().sample_of(args, kwargs)
    if sample.numel() > LARGEST:
        raise LookupError(f"its calls are not small: {tuple(sample.shape)}")


def _is_needed(name: str, argument: inspect.Parameter) -> bool:
    return argument.default is inspect.Parameter.empty or name in ("transformer", "pag_applied_layers")


# -- parts ----------------------------------------------------------------------------------------------------------------------------


def _part(name: str, argument: inspect.Parameter, kind: type, way: Way) -> Any:
    words = str(getattr(argument.annotation, "__name__", None) or argument.annotation)
    if name == "scheduler":
        return _scheduler(words)
    if name.startswith("transformer"):
        return tiny(_named(words, kind), way.channels)
    if name == "vae":
        return Vae()
    if name == "guider":
        return diffusers.ClassifierFreeGuidance()
    return "blocks.0" if name == "pag_applied_layers" else None


def _named(words: str, kind: type) -> type:
    """The model class that an annotation speaks of."""
    for word in words.replace("|", " ").split():
        found_class = getattr(diffusers, word.split(".")[-1], None) or inspect.getmodule(kind).__dict__.get(word)
        if inspect.isclass(found_class):
            return found_class
    raise LookupError(f"no class {words}")


class Vae:
    """What pipelines ask a decoder that they do not run: its compression and its channels."""

    class Config(dict):
        def __getattr__(self, name: str) -> Any:
            if name in self:
                return self[name]
            raise AttributeError(name)

    def __init__(self) -> None:
        self.config = Vae.Config(
            latent_channels=CHANNELS,
            z_dim=CHANNELS,
            encoder_block_out_channels=(8, 8, 8, 8),
            block_out_channels=(8, 8, 8, 8),
            scaling_factor=1.0,
            batch_norm_eps=0.0,
            invert_scale_latents=False,
            shift_factor=0.0,
            patch_size=1,
            patch_size_t=1,
            temporal_compression_ratio=4,
            spatial_compression_ratio=8,
            scale_factor_spatial=8,
            scale_factor_temporal=4,
            latents_mean=[0.0] * CHANNELS,
            latents_std=[1.0] * CHANNELS,
            temporal_downsample=(False, True, True),
        )
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.temperal_downsample = (False, True, True)
        self.spatial_compression_ratio, self.temporal_compression_ratio = 8, 4
        self.latents_mean, self.latents_std = torch.zeros(CHANNELS), torch.ones(CHANNELS)
        self.bn = types.SimpleNamespace(running_mean=torch.zeros(8 * CHANNELS), running_var=torch.ones(8 * CHANNELS))

    def encode(self, x: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Latents of pictures [rows, 3, h, w] or of videos [rows, 3, frames, h, w]."""
        frames = ((x.shape[2] - 1) // 4 + 1,) if x.ndim == 5 else ()
        latents = torch.randn(x.shape[0], CHANNELS, *frames, x.shape[-2] // 8, x.shape[-1] // 8, generator=torch.Generator().manual_seed(9))
        spread = types.SimpleNamespace(sample=lambda *_, **__: latents, mode=lambda: latents)
        return types.SimpleNamespace(latent_dist=spread, latents=latents)

    def modules(self) -> list:
        return []

    def parameters(self) -> list:
        return []


def _scheduler(words: str) -> Any:
    names = [word.split(".")[-1] for word in re.findall(r"[\w.]+", words)]
    for name in names:
        if name.endswith("Scheduler") and hasattr(diffusers, name) and name != "SchedulerMixin":
            made = getattr(diffusers, name)
            flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
            return made(**(flow if name in ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler") else {}))
    return diffusers.FlowMatchEulerDiscreteScheduler() if "Scheduler" in words and "Karras" not in words else diffusers.DDIMScheduler()


def tiny(kind: type, channels: float = 1) -> torch.nn.Module:
    """``kind`` with few, narrow layers; what is not made small keeps its default. channels: times the latents that it takes by default."""
    given = {}
    for name, argument in _arguments(kind.__init__).items():
        value = _small(name, argument)
        if value is not None:
            given[name] = value
    if channels != 1:
        taken = _arguments(kind.__init__)["in_channels"].default
        given["in_channels"] = round(channels * taken)
        if _arguments(kind.__init__)["out_channels"].default is None:
            given["out_channels"] = taken
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in kind(**given).parameters())
    if size > MOST:
        raise LookupError(f"{kind.__name__} is not made small: {size} parameters")
    torch.manual_seed(1)
    return models.lively(kind(**given).eval())


def _small(name: str, argument: inspect.Parameter) -> Any:
    """What the setting ``name`` of a transformer is made; None for its default."""
    default = argument.default
    if name == "vace_layers":
        return [0]
    if isinstance(default, (tuple, list)):
        numbers = all(isinstance(one, int) for one in default)
        return type(default)(_axes(len(default))) if numbers and sum(default) > HEAD and ("rope" in name or "axes_dim" in name) else None
    if isinstance(default, bool) or not (isinstance(default, int) or (default is None and "int" in str(argument.annotation))):
        return None
    if name == "dim":
        return 2 * HEAD
    value = next((value for piece, value in SMALL if piece in name), None)
    return UNTOLD.get(name, value if "attention" in name else None) if default is None else value


def _axes(count: int) -> list[int]:
    """Even numbers that add up to a head's width."""
    return [HEAD - 4 * (count - 1)] + [4] * (count - 1)


# -- calls ----------------------------------------------------------------------------------------------------------------------------


def _call(kind: type, way: Way) -> dict[str, Any]:
    given: dict[str, Any] = {}
    simple = {"num_inference_steps": STEPS, "height": SIDE, "width": SIDE, "num_frames": 5, "output_type": "latent", "strength": 1.0}
    simple |= {"max_sequence_length": TOKENS, "negative_prompt": None, "max_area": SIDE**2, "use_resolution_binning": False}
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (0, 0, SIDE // 2, SIDE))
    pictures = {"image": picture, "control_image": picture, "mask_image": mask, "video": [picture] * 5}
    for name, argument in _arguments(kind.__call__).items():
        if name in simple:
            given[name] = simple[name]
        elif name in pictures and (way.pictures or argument.default is inspect.Parameter.empty):
            given[name] = pictures[name]
        elif "prompt_embeds" in name or "prompt_attention_mask" in name or "cu_seqlens" in name:
            given[name] = _text(name, argument, way.booleans)
        elif name == "class_labels":
            given[name] = [1]
    return given


def _text(name: str, argument: inspect.Parameter, booleans: bool) -> Any:
    generator = torch.Generator().manual_seed(len(name) + (100 if "negative" in name else 0))
    if "mask" in name:
        return torch.ones(1, TOKENS, dtype=torch.bool if "mask" in name and booleans else torch.long)
    if "cu_seqlens" in name:
        return torch.tensor([0, TOKENS], dtype=torch.int32)
    if "pooled" in name or name.endswith("clip"):
        return torch.randn(1, WIDTH, generator=generator)
    text = torch.randn(1, TOKENS, WIDTH, generator=generator)
    return [text[0]] if str(argument.annotation).lower().startswith(("list", "typing.list")) else text


def _arguments(function: Any) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: one for name, one in inspect.signature(function).parameters.items() if name != "self" and one.kind in kinds}
