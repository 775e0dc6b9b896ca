"""Write the finished model as the diffusers folder that is shipped.

    python -m sample_model.folder --model runs/diffusion/model --autoencoder runs/sharper/vae --out lib_accel/sample/model

puts another autoencoder (one with the same encoder: `train_autoencoder --decoder-only`) into a model.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from pathlib import Path

import torch

from lib_accel.sample import load_pipeline, networks
from lib_accel.sample.architecture import SCHEDULER
from sample_model.build_tokenizer import build


def write_model(folder: Path, autoencoder, text_encoder, tokenizer, unet) -> None:
    """Write the complete pipeline as a diffusers folder with fp16 safetensors; the networks stay as they are."""
    autoencoder, text_encoder, unet = _halves(autoencoder, text_encoder, unet)
    write_pipeline(folder, networks.assemble(autoencoder, text_encoder, tokenizer, unet), "unet")
    # So that a user who changes the sampler gets one for this schedule.
    others = {key: value for key, value in SCHEDULER.items() if key in ("clip_sample", "set_alpha_to_one")}
    _edit(folder / "scheduler" / "scheduler_config.json", skip_prk_steps=True, **others)


def write_flow_model(folder: Path, autoencoder, text_encoder, tokenizer, transformer, words: int) -> None:
    """The same of a FluxPipeline, in which the text encoder has both places: one for the words, cut to ``words`` tokens, one for all of
    them together."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    autoencoder, text_encoder, transformer = _halves(autoencoder, text_encoder, transformer)
    autoencoder.register_to_config(shift_factor=0.0)
    texts = {"text_encoder": text_encoder, "tokenizer": tokenizer, "text_encoder_2": _cut(text_encoder, words), "tokenizer_2": tokenizer}
    pipeline = FluxPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), vae=autoencoder, transformer=transformer, **texts)
    write_pipeline(folder, pipeline, "transformer")


def _halves(*parts) -> list:
    """Copies in half precision, on the processor."""
    return [torch.nn.Module.to(copy.deepcopy(part), "cpu", torch.float16) for part in parts]


def _cut(text_encoder, words: int):
    """A copy that reads ``words`` tokens and no more; it sees only what came before, so what it says of them stays the same."""
    longer = text_encoder.state_dict()
    shorter = type(text_encoder)(type(text_encoder.config)(**text_encoder.config.to_dict() | {"max_position_embeddings": words}))
    fits = {
        name: longer[name][: len(value)] if "position_embedding" in name else longer[name] for name, value in shorter.state_dict().items()
    }
    shorter.load_state_dict(fits)
    return shorter.half()


def write_pipeline(folder: Path, pipeline, model: str) -> None:
    """Write `pipeline` without what depends on versions and machines. model: which part of it draws."""
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    for tokenizer in folder.glob("tokenizer*"):
        # Only vocab.json, merges.txt and our two small files: what else transformers writes depends on its version.
        shutil.rmtree(tokenizer)
        build(tokenizer)
    for encoder in folder.glob("text_encoder*"):
        # transformers opens a text encoder in the precision that its configuration names, diffusers other networks in float32:
        # the two must agree, or a folder that is opened without further words cannot draw.
        _edit(encoder / "config.json", dtype="float32", torch_dtype="float32")
    for part in ("vae", model):
        _edit(folder / part / "config.json", _name_or_path=None)  # where it lay on the machine that trained it
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)  # some versions write them for their owner's eyes only


def _edit(path: Path, **changes) -> None:
    """Set entries of a JSON file; None removes one."""
    settings = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(
        json.dumps({key: value for key, value in settings.items() if key not in changes or value is not None}, indent=2) + "\n",
        encoding="utf-8",
    )


def main(argv: list | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="diffusers folder to take everything from")
    parser.add_argument("--autoencoder", type=Path, help="folder of the autoencoder to take instead of the model's")
    parser.add_argument("--out", type=Path, required=True, help="diffusers folder to write")
    options = parser.parse_args(argv)
    from diffusers import AutoencoderKL

    pipeline, vae = load_pipeline(folder=options.model), None
    if options.autoencoder is not None:
        vae = AutoencoderKL.from_pretrained(str(options.autoencoder), local_files_only=True, low_cpu_mem_usage=False)
    write_model(options.out, vae or pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, pipeline.unet)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
