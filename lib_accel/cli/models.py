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

# What diffusers writes into every folder of a pipeline.
INDEX = "model_index.json"


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """--device."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="where the model runs, in PyTorch's words: cuda, cpu, mps (default: %(default)s)")


def refuse_config(config: Path | None, name: str = "--model") -> None:
    """CommandError where --config is given, of which nothing but a checkpoint is read. name: the option that takes one."""
    if config is not None:
        raise CommandError(f"--config is {str(config)!r}; it goes with a .safetensors checkpoint as {name}.")


def open_pipeline(model: Path | None, config: Path | None, device: str, dtype: torch.dtype, name: str = "--model") -> tuple[Any, str]:
    """The pipeline and a line about what it is.

    model: None for the sample model, a diffusers folder, or a .safetensors checkpoint (then ``config`` is a diffusers folder of the
    same kind of model with the configurations and the tokenizer). name: what the command calls it. CommandError, one sentence, when it
    cannot be opened.
    """
    if model is None or model.is_dir():
        refuse_config(config, name)
    if model is None:
        if sample.has_weights():
            return sample.load_pipeline(dtype, device), "the embedded sample model"
        return sample.load_pipeline(dtype, device, random=True), (
            "random weights in the sample model's shape (its trained weights are not there): the pictures show noise, the times are real"
        )
    if not model.exists():
        raise CommandError(f"{name} is {str(model)!r}; there is no such file or folder here, and nothing is downloaded.")
    if model.is_dir():
        _check_folder(name, model)
    elif model.suffix != ".safetensors":
        raise CommandError(f"{name} is {str(model)!r}; a single file must be a .safetensors checkpoint.")
    elif config is None:
        raise CommandError("--config is missing; a checkpoint needs a diffusers folder of the same kind of model.")
    else:
        # A name that is no folder would be looked for on the internet.
        _check_folder("--config", config)
    try:
        return _open(model, config, dtype).to(device), str(model)
    except CommandError:
        raise
    except Exception as error:
        raise CommandError(f"{model} could not be opened: {in_words(error)}") from error


def _check_folder(name: str, folder: Path) -> None:
    if not (folder / INDEX).exists():
        raise CommandError(f"{name} is {str(folder)!r}; it must be a diffusers folder, with a file {INDEX}.")


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
    kind = getattr(diffusers, DiffusionPipeline.load_config(config).get("_class_name", "StableDiffusionPipeline"))
    return kind.from_single_file(str(model), config=str(config), safety_checker=None, **options)


def _has_accelerate() -> bool:
    return importlib.util.find_spec("accelerate") is not None
