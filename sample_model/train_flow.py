"""Train a small flow-matching transformer on the sample model's latents: what is measured on it holds for models like Flux.

    python -m sample_model.train_flow --out runs/flow --minutes 60
    python -m lib_accel quality --model runs/flow/model --size 256 --variants ...

Autoencoder and text encoder are the sample model's, and stay as they are. The transformer learns on windows around objects, then on
whole scenes of 256 pixels (`batches`), and all the while to name what lies where (`labels`). Writes a diffusers folder of a FluxPipeline:
it takes latents in patches of 2 and the text encoder in both of its places.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from lib_accel.sample import load_pipeline, model_folder
from lib_accel.sample.architecture import AUTOENCODER, TEXT_ENCODER
from sample_model import batches, labels, reading, training
from sample_model.folder import write_flow_model
from sample_model.train_diffusion import batch_of_captions

PATCH = 2
# 7.3 million parameters.
HEADS, HEAD = 6, 32
TRANSFORMER = {
    "patch_size": 1,  # the pipeline packs patches itself
    "in_channels": AUTOENCODER["latent_channels"] * PATCH**2,
    "num_layers": 2,
    "num_single_layers": 8,
    "attention_head_dim": HEAD,
    "num_attention_heads": HEADS,
    "joint_attention_dim": TEXT_ENCODER["hidden_size"],
    "pooled_projection_dim": TEXT_ENCODER["hidden_size"],
    "axes_dims_rope": (8, 12, 12),
}
KINDS = (
    batches.Kind(((256, 256),), True, 48 * 256, 1.0, (0.7, 0.2, 0.0)),
    batches.Kind(((256, 256),), False, 16 * 1024, 2.0, (0.3, 0.8, 1.0)),
)
# Noise is drawn as a logistic function of normal numbers, as Stable Diffusion 3 does (Esser et al., arXiv 2403.03206).
MEAN, SPREAD = 0.3, 1.2
LABEL_WEIGHT, LESSONS_END = 0.05, 0.85


def build_transformer():
    """The transformer with fresh weights."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(**TRANSFORMER)


def noise_shares(rows: int) -> torch.Tensor:
    """How much noise each of `rows` latents holds, 0 to 1: one from each of `rows` equally likely stretches."""
    places = (torch.arange(rows) + torch.rand(rows)) / rows
    return torch.sigmoid(MEAN + SPREAD * torch.special.ndtri(places.clamp(1e-4, 1 - 1e-4)))


def packed(latents: torch.Tensor) -> torch.Tensor:
    """Latents (rows, channels, h, w) as the pipeline gives them: (rows, h/2 * w/2, channels * 4)."""
    rows, channels, height, width = latents.shape
    patches = latents.unflatten(3, (width // PATCH, PATCH)).unflatten(2, (height // PATCH, PATCH))
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(rows, -1, channels * PATCH**2)


def places_of(height: int, width: int, device) -> torch.Tensor:
    """(h/2 * w/2, 3) where each patch lies."""
    rows, columns = torch.meshgrid(torch.arange(height // PATCH), torch.arange(width // PATCH), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).to(device, torch.float32)


def loss_of(transformer, words: torch.Tensor, whole: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the predicted velocity, noise less picture, for clean latents (rows, 4, h, w).

    words: the text encoder's output (rows, 77, channels). whole: of each text (rows, channels).
    """
    shares = noise_shares(len(clean)).to(clean.device)
    noise = torch.randn(clean.shape).to(clean.device)
    held = shares.view(-1, 1, 1, 1)
    velocity = transformer(
        hidden_states=packed((1 - held) * clean + held * noise),
        timestep=shares,
        encoder_hidden_states=words,
        pooled_projections=whole,
        img_ids=places_of(*clean.shape[2:], clean.device),
        txt_ids=torch.zeros(words.shape[1], 3, device=clean.device),
    ).sample
    return (velocity.float() - packed(noise - clean)).square().mean()


class Listener:
    """Keeps the features of the patches behind the last block that has words and patches apart, (rows, channels, h/2, w/2)."""

    def __init__(self, transformer):
        self._tokens = None
        transformer.transformer_blocks[-1].register_forward_hook(self._keep)

    def _keep(self, module, inputs, output) -> None:
        self._tokens = output[1]

    def features(self, height: int, width: int) -> torch.Tensor:
        """Of latents of height x width."""
        return self._tokens.transpose(1, 2).unflatten(2, (height // PATCH, width // PATCH))


def parse_options(argv: list | None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", type=Path, default=model_folder(), help="diffusers folder with autoencoder and text encoder (default: the shipped)"
    )
    parser.add_argument("--scenes", type=float, default=1.0, help="how many scenes to draw and encode, relative to 3000")
    parser.add_argument("--rows", type=float, default=1.0, help="size of the batches, relative to the usual one")
    return training.parse(parser, argv, minutes=60.0, rate=8e-4, save_every=500, holds="checkpoint, log and the finished model")


def main(argv: list | None = None) -> int:
    options = parse_options(argv)
    torch.manual_seed(options.seed)
    device = training.choose_device(options.device)
    source = load_pipeline(folder=options.model, device=str(device))
    text_encoder, autoencoder = (part.eval().requires_grad_(False) for part in (source.text_encoder, source.vae))
    modules = {"transformer": build_transformer().to(device), "labels": labels.LabelHead(HEADS * HEAD).to(device)}
    listener = Listener(modules["transformer"])
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    run = training.Run(options, modules, parameters, weight_decay=1e-2, warm_up=300)
    drawn_scenes = batches.Scenes(options.out, autoencoder, options.seed, device, options.scenes, KINDS)
    budget, running = run.budget, {}
    while not budget.done:
        # Everything random comes from seed and step, so a resumed run continues as if it had never stopped.
        rng = np.random.default_rng((options.seed, 13, budget.step))
        torch.manual_seed(options.seed * 1_000_003 + budget.step)
        _, drawn, clean, maps = drawn_scenes.draw(rng, budget.progress, options.rows)
        tokens, _ = reading.tokens_of(source.tokenizer, batch_of_captions(drawn, rng), device)
        with torch.no_grad():
            read = text_encoder(tokens)
        with training.precision_for(device):
            losses = {"flow": loss_of(modules["transformer"], read.last_hidden_state, read.pooler_output, clean.to(device))}
            features = listener.features(*clean.shape[2:])
            losses["labels"] = modules["labels"].loss(features, maps[:, :, ::PATCH, ::PATCH].to(device))
            lesson = max(0.0, 1 - budget.progress / LESSONS_END)
            loss = losses["flow"] + lesson * LABEL_WEIGHT * losses["labels"]
        run.learn(loss)
        for name, value in losses.items():
            running[name] = 0.98 * running.get(name, value.item()) + 0.02 * value.item()
        if budget.step % 50 == 0:
            run.log(rate=run.optimizer.param_groups[0]["lr"], **running)
        if run.save_in_time():
            write_flow_model(options.out / "model", autoencoder, text_encoder, source.tokenizer, run.average.modules["transformer"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
