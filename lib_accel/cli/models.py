"""Opening what `--model` names: the embedded sample model, a diffusers folder, or a single-file checkpoint. Nothing downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .. import sample
from .errors import CommandError


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
        raise CommandError(f"{model} could not be opened: {type(error).__name__}: {str(error).splitlines()[0][:300]}") from error


def _open(model: Path, config: Path | None, dtype: torch.dtype) -> Any:
    import diffusers

    if model.is_dir():
        return diffusers.DiffusionPipeline.from_pretrained(
            model, local_files_only=True, torch_dtype=dtype, use_safetensors=_has_safetensors(model)
        )
    if model.suffix != ".safetensors":
        raise CommandError(f"--model is {str(model)!r}; a single file must be a .safetensors checkpoint.")
    if config is None:
        raise CommandError("a single-file checkpoint also needs --config FOLDER, a diffusers folder of the same kind of model.")
    kind = diffusers.DiffusionPipeline.load_config(config).get("_class_name", "StableDiffusionPipeline")
    return getattr(diffusers, kind).from_single_file(
        str(model), config=str(config), local_files_only=True, torch_dtype=dtype, safety_checker=None
    )


def _has_safetensors(folder: Path) -> bool | None:
    """True makes diffusers refuse pickles; None lets it choose where a folder holds none but old .bin files (read with weights_only)."""
    return True if any(folder.glob("unet/*.safetensors")) else None
