"""Train the sample model's autoencoder from nothing: pictures of 256x256 to latents of 4x32x32 and back.

    python -m sample_model.train_autoencoder --out runs/autoencoder --minutes 20

It learns on crops that grow from 64 to 256 pixels: small crops are cheap and show many edges, and the last, whole
pictures teach it large flat areas, which crops of one size never get right.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from lib_accel.sample import scenes
from lib_accel.sample.architecture import AUTOENCODER
from sample_model import training

# (from this progress on, crop side in pixels, crops per step)
STAGES = ((0.0, 64, 4), (0.4, 96, 3), (0.80, 128, 2), (0.92, 256, 1))
# Weights that were trained before have no use for the smallest crops.
LATER_STAGES = ((0.0, 96, 3), (0.45, 128, 2), (0.8, 256, 1))
KL_WEIGHT = 3e-4
EDGE_WEIGHT = 0.5


def crops(rng: np.random.Generator, side: int, count: int) -> torch.Tensor:
    """Random crops of freshly drawn training scenes, (count, 3, side, side) in -1..1."""
    cut = []
    while len(cut) < count:
        # Some scenes of half size: the U-Net's training begins on those.
        whole = 128 if side <= 128 and rng.random() < 0.2 else 256
        scene = scenes.random_scene(rng)
        picture = scenes.render(scene, whole)
        for item in scene.items if side < whole else scene.items[:1]:
            # Mostly around an object: objects are a tenth of a scene, and nearly all there is to learn.
            corner = np.array((item.y, item.x)) * whole - side / 2 + rng.uniform(-side / 3, side / 3, 2)
            if rng.random() < 0.2:
                corner = rng.uniform(0, whole - side + 1, 2)
            top, left = np.clip(corner, 0, whole - side).astype(int)
            cut.append(picture[top : top + side, left : left + side])
    batch = torch.from_numpy(np.stack(cut[:count])).permute(0, 3, 1, 2)
    # Contiguous matters: the CPU convolutions of a channels-last batch take half as long again.
    return batch.float().contiguous() / 127.5 - 1


def loss_of(autoencoder, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Training loss and mean absolute error of one batch of pictures in -1..1."""
    posterior = autoencoder.encode(pictures).latent_dist
    decoded = autoencoder.decode(posterior.sample()).sample.float()
    error = decoded - pictures
    absolute = error.abs().mean()
    # Differences between neighbours keep edges sharp where the plain error would rather blur them.
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return absolute + error.square().mean() + EDGE_WEIGHT * edges + KL_WEIGHT * kl, absolute.detach()


@torch.no_grad()
def measure(autoencoder, device, count: int = 24, seed: int = 999) -> dict:
    """Mean absolute error in grey levels of 255 and the latents' spread, on whole pictures that training never sees."""
    rng = np.random.default_rng(seed)
    errors, latents = [], []
    for _ in range(count):
        picture = torch.from_numpy(scenes.render(scenes.random_scene(rng, held_out=True))).permute(2, 0, 1)[None]
        picture = picture.float().to(device) / 127.5 - 1
        latent = autoencoder.encode(picture).latent_dist.mean
        errors.append((autoencoder.decode(latent).sample.clamp(-1, 1) - picture).abs().mean().item() * 127.5)
        latents.append(latent)
    return {"grey_levels": float(np.mean(errors)), "latent_std": float(torch.cat(latents).std())}


def main(argv: list | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1, help="multiply the crops per step by this (for GPUs)")
    parser.add_argument("--begin-with", type=Path, help="folder of an autoencoder to begin with instead of fresh weights")
    parser.add_argument("--decoder-only", action="store_true", help="leave the encoder, and so every latent, as it is in --begin-with")
    # A rate of 2e-3 diverges.
    options = training.parse(parser, argv, minutes=20.0, rate=7e-4, save_every=500, holds="checkpoint, log and result")

    from diffusers import AutoencoderKL

    torch.manual_seed(options.seed)
    device = training.choose_device(options.device)
    if options.decoder_only and options.begin_with is None:
        parser.error("--decoder-only needs --begin-with: an encoder that was never trained is not worth keeping")
    fresh = options.begin_with is None
    autoencoder = (
        AutoencoderKL(**AUTOENCODER)
        if fresh
        else AutoencoderKL.from_pretrained(str(options.begin_with), local_files_only=True, low_cpu_mem_usage=False)
    )
    autoencoder.to(device)
    if options.decoder_only:
        autoencoder.encoder.requires_grad_(False)
        autoencoder.quant_conv.requires_grad_(False)
    parameters = [parameter for parameter in autoencoder.parameters() if parameter.requires_grad]
    run = training.Run(options, {"autoencoder": autoencoder}, parameters, weight_decay=1e-3)
    budget, running = run.budget, None
    while not budget.done:
        # Everything random comes from seed and step, so a resumed run continues as if it had never stopped.
        rng = np.random.default_rng((options.seed, budget.step))
        torch.manual_seed(options.seed * 1_000_003 + budget.step)
        _, side, count = [stage for stage in (STAGES if fresh else LATER_STAGES) if stage[0] <= budget.progress][-1]
        with training.precision_for(device):
            loss, absolute = loss_of(autoencoder, crops(rng, side, count * options.batch).to(device))
        run.learn(loss)
        running = absolute.item() if running is None else 0.98 * running + 0.02 * absolute.item()
        if budget.step % 100 == 0:
            run.log(side=side, grey_levels=running * 127.5)
        run.save_in_time()
    result = run.average.modules["autoencoder"]
    quality = measure(result, device)
    training.log_line(options.out / "log.jsonl", step=budget.step, **quality)
    # The U-Net wants latents of spread 1; the factor that makes them so travels in the configuration.
    if not options.decoder_only:
        result.register_to_config(scaling_factor=round(1 / quality["latent_std"], 5))
    result.save_pretrained(options.out / "vae")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
