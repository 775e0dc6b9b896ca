"""Train the sample model's U-Net and text encoder, together, on the latents of scenes from 192 to 512 pixels.

    python -m sample_model.train_diffusion --autoencoder runs/autoencoder/vae --out runs/diffusion --minutes 110

The text encoder learns to read first (`reading`). Then both learn on windows and scenes of
several sizes (`batches`). All the while a linear layer on the U-Net's features has to name what lies where (`labels`).
Writes a complete diffusers folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lib_accel.sample import captions, load_pipeline, networks
from lib_accel.sample.architecture import SCHEDULER, UNETS
from sample_model import batches, labels, optimizers, reading, training
from sample_model.attention import TrainingAttention
from sample_model.build_tokenizer import build
from sample_model.folder import write_model

EMPTY_SHARE = 0.1  # captions left empty, which is what guidance steers away from
DISTURBED_SHARE = 0.1  # captions with words that mean nothing here
SNR_LIMIT = 5.0
# Where the noise outweighs the picture, words and outlines are decided, and the error of the noise is small however wrong they are.
EARLY_LIMIT = 3.0
# Even the noisiest timestep lets the mean of a whole picture shine through. A model that trusts it reads "grey" from the pure
# noise that drawing starts from; a random offset hides the mean, and the words have to say which background it is.
OFFSET_NOISE = 0.15
# Where a group of a normalisation is one channel, as with 32 channels, the last one takes each channel's mean away, and a network learns
# late to say it in other ways. The mean's error counts more for that; the noise that is best to predict stays the same.
MEAN_WEIGHT = 4.0
LABEL_WEIGHT, READING_WEIGHT = 0.02, 0.005  # beside an error of the noise of 0.02; both fall to nothing at this progress:
LESSONS_END = 0.85
# Of the noise to predict, the part that a teacher says and not the noise that was added, and the progress from which it falls to nothing:
# for small scenes, which the teacher draws well, and for large ones.
TEACHER_PIXELS = 256
SMALL_TEACHER, LARGE_TEACHER = (0.8, 0.95), (0.5, 0.7)


def noise_levels() -> torch.Tensor:
    """Share of the signal's variance that is left at each of the 1000 timesteps (`alphas_cumprod`)."""
    betas = (
        torch.linspace(SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5, SCHEDULER["num_train_timesteps"], dtype=torch.float64)
        ** 2
    )
    return torch.cumprod(1 - betas, 0).float()


def batch_of_captions(drawn: list, rng: np.random.Generator) -> list:
    """One fresh caption per scene; some are left empty, some disturbed."""
    texts = []
    for scene in drawn:
        text = captions.caption(scene, rng)
        draw = rng.random()
        if draw < EMPTY_SHARE:
            text = ""
        elif draw < EMPTY_SHARE + DISTURBED_SHARE:
            text = captions.disturb(text, rng)
        texts.append(text)
    return texts


class Teacher:
    """A trained model that says which noise it sees. What was added is that and chance; without the chance a network learns faster."""

    def __init__(self, folder: Path, device):
        parts = started_from(folder, device)
        self.unet, self.text_encoder = (part.eval().requires_grad_(False) for part in parts.values())
        if device.type == "cpu":
            self.unet.set_attn_processor(TrainingAttention())

    def says(self, tokens: torch.Tensor, share: float) -> Callable:
        """What `loss_of` takes as ``seen``, for rows with these token numbers. share: of the teacher in it, 0..1."""

        @torch.no_grad()
        def seen(noisy: torch.Tensor, times: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            return torch.lerp(noise, self.unet(noisy, times, self.text_encoder(tokens)[0]).sample.float(), share)

        return seen


def share_at(progress: float, most: float, fades: float) -> float:
    """A teacher's part, 0 to 1, at ``progress`` (0..1) of a training: ``most``, and from ``fades`` on less, to nothing."""
    return most * min(1.0, (1 - progress) / (1 - fades))


def loss_of(unet, context: torch.Tensor, clean: torch.Tensor, levels: torch.Tensor, early: float = 1.0, seen: Callable | None = None):
    """Weighted error of the predicted noise for one batch of clean latents (rows, 4, h, w). early: as of a `Kind`.

    seen: what to predict, from the noisy latents, the timesteps and the noise that was added, which is it otherwise.
    """
    rows = clean.shape[0]
    # One timestep from each of `rows` equal slices: the loss of a batch then wobbles less than with free draws.
    slices = ((torch.arange(rows) + torch.rand(rows)) / rows) ** early
    times = (slices * len(levels)).long().clamp(max=len(levels) - 1).to(clean.device)
    left = levels[times].view(-1, 1, 1, 1)
    noise = torch.randn(clean.shape) + OFFSET_NOISE * torch.randn(*clean.shape[:2], 1, 1)
    noise = noise.to(clean.device)
    noisy = left.sqrt() * clean + (1 - left).sqrt() * noise
    predicted = unet(noisy, times, context).sample.float()
    if seen is not None:
        noise = seen(noisy, times, noise)
    snr = left / (1 - left)
    weight = (snr.clamp(max=SNR_LIMIT) / snr * (1 + 1 / snr).clamp(max=EARLY_LIMIT)).view(-1)
    error = predicted - noise
    errors = error.square().mean(dim=(1, 2, 3)) + MEAN_WEIGHT * error.mean(dim=(2, 3)).square().mean(dim=1)
    return (weight * errors).mean()


def started_from(folder: Path, device) -> dict:
    """The U-Net and the text encoder of a trained model, to train on, by their names."""
    pipeline = load_pipeline(folder=folder, device=str(device))
    return {name: getattr(pipeline, name).train() for name in ("unet", "text_encoder")}


def parse_options(argv: list | None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--autoencoder", type=Path, required=True, help="folder of the trained autoencoder")
    # No option here may begin two of torchrun's own, as --start would: it refuses them (findings/torchrun-refuses-the-scripts-options.sh).
    parser.add_argument("--begin-with", type=Path, help="model folder to go on from: no lessons, and scenes as at the end of a training")
    parser.add_argument("--teacher", type=Path, help="model folder whose answers on small scenes are most of what the U-Net learns")
    parser.add_argument("--large-teacher", type=Path, help="the same for large scenes, where it says half of what is learnt")
    parser.add_argument("--shape", choices=UNETS, default="small", help="of the U-Net; sd15: Stable Diffusion 1.5's, a tenth as wide")
    parser.add_argument("--scenes", type=float, default=1.0, help="part of the scenes of every size to draw and encode")
    parser.add_argument("--rows", type=float, default=1.0, help="size of the batches, relative to the usual one")
    parser.add_argument("--reading-steps", type=int, default=400, help="steps in which the text encoder learns alone")
    return training.parse(parser, argv, minutes=110.0, rate=1.2e-3, save_every=250, holds="checkpoint, log and the finished model")


def main(argv: list | None = None) -> int:
    options = parse_options(argv)
    from diffusers import AutoencoderKL

    torch.manual_seed(options.seed)
    device = training.choose_device(options.device)
    autoencoder = AutoencoderKL.from_pretrained(str(options.autoencoder), local_files_only=True, low_cpu_mem_usage=False).to(device).eval()
    build(options.out / "tokenizer")
    tokenizer = networks.build_tokenizer(options.out / "tokenizer")
    modules = {"unet": networks.build_unet(options.shape), "text_encoder": networks.build_text_encoder(tokenizer)}
    modules["reading"] = reading.ReadingHead()
    for module in modules.values():
        module.to(device)
    if options.begin_with is not None:
        modules |= started_from(options.begin_with, device)
    elif not options.resume:
        reading.pretrain(modules["text_encoder"], modules["reading"], tokenizer, options.reading_steps, options.seed, device)
    folders = (options.large_teacher, LARGE_TEACHER), (options.teacher, SMALL_TEACHER)  # in the order of False, True
    teachers = [None if folder is None else (Teacher(folder, device), when) for folder, when in folders]
    # Of the U-Net that is trained: a model to go on from has a shape of its own.
    modules["labels"] = labels.LabelHead(labels.features_of(modules["unet"])).to(device)
    if device.type == "cpu":
        modules["unet"].set_attn_processor(TrainingAttention())
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    matrices = [weight for name in ("unet", "text_encoder") for weight in optimizers.hidden_matrices(modules[name])]
    run = training.Run(options, modules, parameters, 1e-2, 200 if options.begin_with is None else 40, matrices)
    budget, together = run.budget, run.together
    listener = labels.Listener(modules["unet"])
    drawn_scenes = batches.Scenes(options.out, autoencoder, options.seed, device, options.scenes)
    levels, running = noise_levels().to(device), {}
    while not budget.done:
        # Everything random comes from seed and step, so a resumed run continues as if it had never stopped.
        rng = np.random.default_rng((options.seed, 11, budget.step))
        torch.manual_seed(options.seed * 1_000_003 + budget.step + 500_000_003 * together.rank)
        kind, *batch = drawn_scenes.draw(rng, budget.progress if options.begin_with is None else 1.0, options.rows)
        drawn, clean, maps = (together.part(rows) for rows in batch)
        if together.rank:
            rng = np.random.default_rng((options.seed, 11, budget.step, together.rank))
        texts = batch_of_captions(drawn, rng)
        tokens, lengths = reading.tokens_of(tokenizer, texts, device)
        lesson = 0.0 if options.begin_with is not None else max(0.0, 1 - budget.progress / LESSONS_END)
        with training.precision_for(device):
            context = modules["text_encoder"](tokens)[0]
            seen = None
            if chosen := teachers[min(kind.sizes[0]) <= TEACHER_PIXELS]:
                teacher, when = chosen
                seen = teacher.says(tokens, share_at(budget.progress, *when))
            losses = {"noise": loss_of(modules["unet"], context, clean.to(device), levels, kind.early, seen)}
            losses["labels"] = modules["labels"].loss(listener.features, maps.to(device))
            losses["reading"] = modules["reading"].loss(context, texts, lengths)
            loss = losses["noise"] + lesson * (LABEL_WEIGHT * losses["labels"] + READING_WEIGHT * losses["reading"])
        run.learn(loss)
        for name, value in losses.items():
            running[name] = 0.98 * running.get(name, value.item()) + 0.02 * value.item()
        if budget.step % 50 == 0:
            run.log(rate=run.optimizer.param_groups[0]["lr"], **running)
        if run.save_in_time():
            ours = run.average.modules
            write_model(options.out / "model", autoencoder, ours["text_encoder"], tokenizer, ours["unet"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
