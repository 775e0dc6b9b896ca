"""Train a small flow-matching transformer on the sample model's latents: what is measured on it holds for models like Flux.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m sample_model.train_flow --out runs/flow --minutes 60
    python -m lib_accel quality --model runs/flow/model --size 256 --variants ...

Autoencoder and text encoder are the sample model's, and stay as they are. The transformer learns on windows around objects, then on
whole scenes of 256 pixels (`batches`), and all the while to name what lies where (`labels`). The sample model's U-Net is its teacher:
what it says of a noisy picture is most of what the transformer learns to say. Writes a diffusers folder of a FluxPipeline: it takes
latents in patches of 2 and the text encoder in both of its places.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lib_accel.sample import load_pipeline, model_folder
from lib_accel.sample.architecture import AUTOENCODER, TEXT_ENCODER
from sample_model import batches, labels, optimizers, reading, training
from sample_model.attention import FluxTrainingAttention, TrainingAttention
from sample_model.folder import write_flow_model
from sample_model.losses import OFFSET_NOISE, noise_levels
from sample_model.teaching import share_at
from sample_model.train_diffusion import batch_of_captions

PATCH = 2
WORDS = 32  # tokens of a text that the transformer sees; captions have 26 at most
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
    batches.Kind(((256, 256),), True, 48 * 256, 1.0, (0.7, 0.2, 0.0, 0.0)),
    batches.Kind(((256, 256),), False, 16 * 1024, 2.0, (0.3, 0.8, 1.0, 1.0)),
)
# Noise is drawn as a logistic function of normal numbers, as Stable Diffusion 3 does (Esser et al., arXiv 2403.03206), with more of it:
# what is in the background is decided in the first of 25 steps, which goes from 1 to 0.96.
MEAN, SPREAD = 0.8, 1.5
LABEL_WEIGHT, LESSONS_END = 0.05, 0.85
# The teacher's part in what is learnt, and the progress from which it falls to nothing; with more noise than TEACHER_NOISE the teacher,
# whose training ended there, is not asked.
TEACHER, TEACHER_NOISE = (0.8, 0.9), 0.93


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


class Teacher:
    """A U-Net that predicts noise, asked for the velocity of noisy latents."""

    def __init__(self, unet):
        self.unet = unet.eval().requires_grad_(False)
        self.levels = noise_levels()
        if unet.device.type == "cpu":
            unet.set_attn_processor(TrainingAttention())

    @torch.no_grad()
    def velocity(self, noisy: torch.Tensor, shares: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Of latents (rows, 4, h, w) that hold `shares` (rows,) of noise, of texts as the encoder gives them."""
        held = shares.view(-1, 1, 1, 1)
        length = ((1 - held).square() + held.square()).sqrt()  # the U-Net knows latents whose parts' squares sum to 1
        left = ((1 - shares).square() / length.flatten().square()).cpu()
        times = (len(self.levels) - torch.searchsorted(self.levels.flip(0), left)).clamp(0, len(self.levels) - 1)
        noise = self.unet(noisy / length, times.to(noisy.device), words).sample.float()
        return (noise - noisy) / (1 - held)


def loss_of(
    transformer, words: torch.Tensor, whole: torch.Tensor, clean: torch.Tensor, says: Callable | None = None, share: float = 0.0
) -> torch.Tensor:
    """Mean squared error of the predicted velocity, noise less picture, for clean latents (rows, 4, h, w).

    words: the text encoder's output (rows, tokens, channels). whole: of each text (rows, channels). says: a teacher's `velocity`,
    and share: its part in what is to be predicted, 0..1.
    """
    shares = noise_shares(len(clean)).to(clean.device)
    noise = torch.randn(clean.shape) + OFFSET_NOISE * torch.randn(*clean.shape[:2], 1, 1)
    noise = noise.to(clean.device)
    held = shares.view(-1, 1, 1, 1)
    noisy, wanted = (1 - held) * clean + held * noise, noise - clean
    if share > 0 and (known := shares < TEACHER_NOISE).any():
        wanted[known] = wanted[known].lerp(says(noisy[known], shares[known], words[known]), share)
    velocity = transformer(
        hidden_states=packed(noisy),
        timestep=shares,
        encoder_hidden_states=words,
        pooled_projections=whole,
        img_ids=places_of(*clean.shape[2:], clean.device),
        txt_ids=torch.zeros(words.shape[1], 3, device=clean.device),
    ).sample
    return (velocity.float() - packed(wanted)).square().mean()


def hidden_matrices(transformer) -> list:
    """Weights of the matrices of its blocks, which Muon changes."""
    return [
        weight
        for name in ("transformer_blocks", "single_transformer_blocks")
        for weight in optimizers.hidden_matrices(getattr(transformer, name))
    ]


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
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="on processors without a C++ compiler")
    return training.parse(parser, argv, minutes=60.0, rate=8e-4, save_every=500, holds="checkpoint, log and the finished model")


def main(argv: list | None = None) -> int:
    options = parse_options(argv)
    torch.manual_seed(options.seed)
    device = training.choose_device(options.device)
    source = load_pipeline(folder=options.model, device=str(device))
    text_encoder, autoencoder = (part.eval().requires_grad_(False) for part in (source.text_encoder, source.vae))
    transformer = build_transformer().to(device)
    call = transformer
    if device.type == "cpu":
        transformer.set_attn_processor(FluxTrainingAttention())
        # Few shapes: whole scenes, windows around one object or two.
        call = torch.compile(transformer, dynamic=False) if options.compile else transformer
    modules = {"transformer": transformer, "labels": labels.LabelHead(HEADS * HEAD).to(device)}
    listener = Listener(transformer)
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    run = training.Run(options, modules, parameters, 1e-2, 200, hidden_matrices(transformer))
    teacher = Teacher(source.unet)
    drawn_scenes = batches.Scenes(options.out, autoencoder, options.seed, device, options.scenes, KINDS)
    budget, together, running = run.budget, run.together, {}
    while not budget.done:
        # Everything random comes from seed and step, so a resumed run continues as if it had never stopped.
        rng = np.random.default_rng((options.seed, 13, budget.step))
        torch.manual_seed(options.seed * 1_000_003 + budget.step + 500_000_003 * together.rank)
        _, *batch = drawn_scenes.draw(rng, budget.progress, options.rows)
        drawn, clean, maps = (together.part(rows) for rows in batch)
        if together.rank:
            rng = np.random.default_rng((options.seed, 13, budget.step, together.rank))
        tokens, _ = reading.tokens_of(source.tokenizer, batch_of_captions(drawn, rng), device)
        with torch.no_grad():
            read = text_encoder(tokens)
        with training.precision_for(device):
            given = (
                read.last_hidden_state[:, :WORDS],
                read.pooler_output,
                clean.to(device),
                teacher.velocity,
                share_at(budget.progress, *TEACHER),
            )
            losses = {"flow": loss_of(call, *given)}
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
            write_flow_model(options.out / "model", autoencoder, text_encoder, source.tokenizer, run.average.modules["transformer"], WORDS)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
