"""Train the sample model's U-Net and text encoder, together and from nothing, on the latents of scenes.

    python -m sample_model.train_diffusion --autoencoder runs/autoencoder/vae --out runs/diffusion --minutes 65

First on scenes of half size (16x16 latents), where a step costs a fifth and what to draw where is learnt; then on
whole ones (32x32), where outlines and textures get their final shape. Writes a complete diffusers folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from lib_accel.sample import captions, networks
from lib_accel.sample.architecture import SCHEDULER, TOKENS
from sample_model import latents, training
from sample_model.attention import PlainAttention
from sample_model.build_tokenizer import build
from sample_model.folder import write_model

EMPTY_SHARE = 0.1  # captions left empty, which is what guidance steers away from
DISTURBED_SHARE = 0.1  # captions with words that mean nothing here
SNR_LIMIT = 5.0
# Even the noisiest timestep lets the mean of a whole picture shine through. A model that trusts it reads "grey" from the pure
# noise that drawing starts from; a random offset hides the mean, and the words have to say which background it is.
OFFSET_NOISE = 0.15


def noise_levels() -> torch.Tensor:
    """Share of the signal's variance that is left at each of the 1000 timesteps (`alphas_cumprod`)."""
    betas = (
        torch.linspace(SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5, SCHEDULER["num_train_timesteps"], dtype=torch.float64)
        ** 2
    )
    return torch.cumprod(1 - betas, 0).float()


def batch_of_captions(indices: np.ndarray, seed: int, rng: np.random.Generator) -> list:
    """One fresh caption per scene; some are left empty, some disturbed."""
    texts = []
    for index in indices:
        text = captions.caption(latents.training_scene(seed, int(index)), rng)
        draw = rng.random()
        if draw < EMPTY_SHARE:
            text = ""
        elif draw < EMPTY_SHARE + DISTURBED_SHARE:
            text = captions.disturb(text, rng)
        texts.append(text)
    return texts


def loss_of(unet, text_encoder, tokens: torch.Tensor, clean: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Min-SNR weighted error of the predicted noise for one batch of clean latents (rows, 4, h, w)."""
    rows = clean.shape[0]
    # One timestep from each of `rows` equal slices: the loss of a batch then wobbles less than with free draws.
    slices = (torch.arange(rows) + torch.rand(rows)) / rows
    times = (slices * len(levels)).long().clamp(max=len(levels) - 1).to(clean.device)
    left = levels[times].view(-1, 1, 1, 1)
    noise = torch.randn(clean.shape) + OFFSET_NOISE * torch.randn(*clean.shape[:2], 1, 1)
    noise = noise.to(clean.device)
    noisy = left.sqrt() * clean + (1 - left).sqrt() * noise
    context = text_encoder(tokens)[0]
    predicted = unet(noisy, times, context).sample.float()
    snr = left / (1 - left)
    weight = (snr.clamp(max=SNR_LIMIT) / snr).view(-1)
    return (weight * (predicted - noise).square().mean(dim=(1, 2, 3))).mean()


def parse_options(argv: list | None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--autoencoder", type=Path, required=True, help="folder of the trained autoencoder")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, log and the finished model")
    parser.add_argument("--minutes", type=float, help="length in minutes of computing (default 65, unless --steps)")
    parser.add_argument("--steps", type=int, help="length in steps instead: the same seed then gives the same weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1.2e-3, help="highest learning rate")
    parser.add_argument("--half-share", type=float, default=0.6, help="share of the budget on scenes of half size")
    parser.add_argument("--half-batch", type=int, default=24)
    parser.add_argument("--full-batch", type=int, default=10)
    parser.add_argument("--half-scenes", type=int, default=3000)
    parser.add_argument("--full-scenes", type=int, default=1200)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--save-every", type=int, default=250, help="steps between two checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    options = parser.parse_args(argv)
    if options.minutes is None and options.steps is None:
        options.minutes = 65.0
    return options


def main(argv: list | None = None) -> int:
    options = parse_options(argv)
    from diffusers import AutoencoderKL

    torch.manual_seed(options.seed)
    device = training.choose_device(options.device)
    autoencoder = AutoencoderKL.from_pretrained(str(options.autoencoder), local_files_only=True, low_cpu_mem_usage=False).to(device).eval()
    build(options.out / "tokenizer")
    tokenizer = networks.build_tokenizer(options.out / "tokenizer")
    modules = {"unet": networks.build_unet().to(device), "text_encoder": networks.build_text_encoder(tokenizer).to(device)}
    if device.type == "cpu":
        modules["unet"].set_attn_processor(PlainAttention())
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    average = training.Average(modules, 0.998)
    optimizer = torch.optim.AdamW(parameters, lr=options.rate, betas=(0.9, 0.99), weight_decay=1e-2)
    budget = training.Budget(options.steps, options.minutes)
    checkpoint = options.out / "checkpoint.pt"
    if options.resume:
        training.load_checkpoint(checkpoint, modules, average, optimizer, budget)
    levels, data, running = noise_levels().to(device), {}, None
    while not budget.done:
        half = budget.progress < options.half_share
        side, rows, count = (128, options.half_batch, options.half_scenes) if half else (256, options.full_batch, options.full_scenes)
        if side not in data:
            data = {side: latents.cached_latents(options.out, autoencoder, count, side, options.seed, device)}
        # Everything random comes from seed and step, so a resumed run continues as if it had never stopped.
        rng = np.random.default_rng((options.seed, 11, budget.step))
        torch.manual_seed(options.seed * 1_000_003 + budget.step)
        indices = np.sort(rng.choice(count, rows, replace=False))
        texts = batch_of_captions(indices, options.seed, rng)
        tokens = tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids
        clean = torch.from_numpy(data[side][indices].astype(np.float32)).to(device)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate(options.rate, budget.progress, budget.step, warm_up=200)
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of(modules["unet"], modules["text_encoder"], tokens.to(device), clean, levels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        budget.tick()
        average.update(modules, budget.step)
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if budget.step % 50 == 0:
            training.log_line(
                options.out / "log.jsonl", step=budget.step, minutes=budget.seconds / 60, progress=budget.progress, side=side, loss=running
            )
        if budget.step % options.save_every == 0 or budget.done:
            training.save_checkpoint(checkpoint, modules, average, optimizer, budget, {})
            ours = average.modules
            write_model(options.out / "model", autoencoder, ours["text_encoder"], tokenizer, ours["unet"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
