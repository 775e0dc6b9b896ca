"""Opening what `--model` names: the embedded sample model, a diffusers folder, or a single-file checkpoint. Nothing downloads."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import torch

from .. import sample
from ..core.errors import in_words
from .errors import CommandError


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """--device."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="where the model runs, in PyTorch's words: cuda, cpu, mps (default: %(default)s)")


def open_pipeline(model: Path | None, config: Path | None, device: str, dtype: torch.dtype) -> tuple[Any, str]:
    """The pipeline and a line about what it is.

    model: None for the sample model, a diffusers folder, or a .safetensors checkpoint (then ``config`` is a diffusers folder of the
    same kind of model with the configurations and the tokenizer). CommandError, one sentence, when it cannot be opened.
    """
    if model is None:
        if sample.has_weights():
            return sample.load_pipeline(dtype, device), "the embedded sample model"
        return sample.load_pipeline(dtype, device, random=True), (
            "random weights in the sample model's shape (its trained weights are not there): the pictures show noise, the times are real"
        )
    if not model.exists():
        raise CommandError(f"--model is {str(model)!r}; there is no such file or folder.")
    try:
        return _open(model, config, dtype).to(device), str(model)
    except CommandError:
        raise
    except Exception as error:
        raise CommandError(f"{model} could not be opened: {in_words(error)}") from error


def _open(model: Path, config: Path | None, dtype: torch.dtype) -> Any:
    import diffusers
    from diffusers import DiffusionPipeline

    # diffusers renamed the argument; the documentation of the installed release lists its name.
    keyword = "torch_dtype" if "torch_dtype (" in (DiffusionPipeline.from_pretrained.__doc__ or "") else "dtype"
    options = {"local_files_only": True, keyword: dtype, "low_cpu_mem_usage": _has_accelerate()}
    if model.is_dir():
        # True makes diffusers refuse pickles; None lets it read a folder that holds nothing but old .bin files, with weights_only.
        safe = True if any(model.glob("unet/*.safetensors")) else None
        return DiffusionPipeline.from_pretrained(model, use_safetensors=safe, **options)
    if model.suffix != ".safetensors":
        raise CommandError(f"--model is {str(model)!r}; a single file must be a .safetensors checkpoint.")
    if config is None:
        raise CommandError("a single-file checkpoint also needs --config FOLDER, a diffusers folder of the same kind of model.")
    kind = getattr(diffusers, DiffusionPipeline.load_config(config).get("_class_name", "StableDiffusionPipeline"))
    return kind.from_single_file(str(model), config=str(config), safety_checker=None, **options)


def _has_accelerate() -> bool:
    return importlib.util.find_spec("accelerate") is not None
