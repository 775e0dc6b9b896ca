"""Write the finished model as the diffusers folder that is shipped."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch

from lib_accel.sample import networks


def write_model(folder: Path, autoencoder, text_encoder, tokenizer, unet) -> None:
    """Write the complete pipeline as a diffusers folder with fp16 safetensors; the networks stay as they are."""
    halves = [copy.deepcopy(network) for network in (autoencoder, text_encoder, unet)]
    for network in halves:
        torch.nn.Module.to(network, "cpu", torch.float16)
    pipeline = networks.assemble(halves[0], halves[1], tokenizer, halves[2])
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    # transformers opens a text encoder in the precision that its configuration names, diffusers a U-Net in float32:
    # the two must agree, or a folder that is opened without further words cannot draw.
    path = folder / "text_encoder" / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings.update(dtype="float32", torch_dtype="float32")
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
