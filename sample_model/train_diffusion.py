"""Train the sample model's U-Net and text encoder, together, on the latents of scenes from 192 to 512 pixels.

    python -m sample_model.train_diffusion --autoencoder runs/autoencoder/vae --out runs/diffusion --minutes 110

The text encoder learns to read first (`reading`). Then both learn on windows and scenes of
several sizes (`batches`). All the while a linear layer on the U-Net's features has to name what lies where (`labels`).
Writes a complete diffusers folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from lib_accel.sample import captions, networks
from lib_accel.sample.architecture import UNETS
from sample_model import batches, labels, losses, optimizers, reading, training
from sample_model.attention import TrainingAttention
from sample_model.build_tokenizer import build
from sample_model.folder import write_model
from sample_model.rivals import caption_and_rival
from sample_model.teaching import LARGE_TEACHER, PAIRED, SMALL_TEACHER, TEACHER_PIXELS, Drawings, Teacher, share_at, started_from

EMPTY_SHARE = 0.1  # captions left empty, which is what guidance steers away from
DISTURBED_SHARE = 0.1  # captions with words that mean nothing here
RIVAL_SHARE = 0.6  # of the rows in pairs, those whose other caption is not empty but differs in one thing
LABEL_WEIGHT, READING_WEIGHT = 0.02, 0.005  # beside an error of the noise of 0.02; both fall to nothing at this progress:
LESSONS_END = 0.85
GUIDED_WEIGHT = 3.0  # of the guided noise's error, beside that of every row
THINNED_UNTIL = 0.95  # progress up to which self-attention sees some of its keys only


def batch_of_captions(drawn: list, rng: np.random.Generator, pairs: int = 0) -> list:
    """One fresh caption per scene; some are left empty, some disturbed. Then what the first `pairs` scenes are paired with: an empty
    caption, or one that differs in one thing."""
    texts, others = [], []
    for index, scene in enumerate(drawn):
        if index < pairs and rng.random() < RIVAL_SHARE:
            text, other = caption_and_rival(scene, rng)
            texts.append(text)
            others.append(other)
            continue
        text = captions.caption(scene, rng)
        draw = rng.random()
        if draw < EMPTY_SHARE:
            text = ""
        elif draw < EMPTY_SHARE + DISTURBED_SHARE:
            text = captions.disturb(text, rng)
        texts.append(text)
        others += [""] * (index < pairs)
    return texts + others


def parse_options(argv: list | None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--autoencoder", type=Path, required=True, help="folder of the trained autoencoder")
    # No option here may begin two of torchrun's own, as --start would: it refuses them (findings/torchrun-refuses-the-scripts-options.sh).
    parser.add_argument("--begin-with", type=Path, help="model folder to go on from: no lessons, and scenes as at the end of a training")
    parser.add_argument("--teacher", type=Path, help="model folder whose answers on small scenes are most of what the U-Net learns")
    parser.add_argument("--large-teacher", type=Path, help="the same for large scenes, where it says most of the time what is learnt")
    parser.add_argument("--own", type=float, default=0.0, help="part of the steps on whole scenes with a teacher that are on own drawings")
    parser.add_argument("--shape", choices=UNETS, default="small", help="of the U-Net; sd15: Stable Diffusion 1.5's, a tenth as wide")
    parser.add_argument("--thinned", action="store_true", help="most of the time with some of the keys of large self-attention only")
    parser.add_argument("--scenes", type=float, default=1.0, help="part of the scenes of every size to draw and encode")
    parser.add_argument("--rows", type=float, default=1.0, help="size of the batches, relative to the usual one")
    parser.add_argument("--reading-steps", type=int, default=400, help="steps in which the text encoder learns alone")
    return training.parse(parser, argv, minutes=110.0, rate=1.2e-3, save_every=250, holds="checkpoint, log and the finished model")


class Lesson:
    """What a step teaches. modules: of the training; teachers: of large and of small scenes, each with its shares, or None."""

    def __init__(self, modules: dict, tokenizer, teachers: list, device):
        self.modules, self.tokenizer, self.teachers, self.device = modules, tokenizer, teachers, device
        self.levels, self.drawings = losses.noise_levels().to(device), {}
        self.listener = labels.Listener(modules["unet"])

    def of(self, kind: batches.Kind, batch: tuple, rng: np.random.Generator, progress: float, own: bool) -> dict[str, torch.Tensor]:
        """The losses, by name, of a batch of `kind`: scenes, latents, label maps. own: on own drawings, where there is a teacher."""
        drawn, clean, maps = batch
        small = min(kind.sizes[0]) <= TEACHER_PIXELS
        chosen = self.teachers[small]
        own = own and chosen is not None and not kind.window
        if own:
            drawings = self.drawings.setdefault(clean.shape[2:], Drawings(clean.shape[2:], self.levels))
            while len(drawings.all) < drawings.COUNT:
                drawings.begin(captions.caption(drawn[rng.integers(len(drawn))], rng))
            given, texts = drawings.take(max(1, len(drawn) // 2))
            texts += [""] * given.pairs
        else:
            pairs = int(PAIRED * len(drawn)) if chosen is not None else 0
            count = len(drawn) - pairs
            given = losses.add_noise(clean[:count].to(self.device), self.levels, kind.early, pairs)
            texts = batch_of_captions(drawn[:count], rng, pairs)
        tokens, lengths = reading.tokens_of(self.tokenizer, texts, self.device)
        context = self.modules["text_encoder"](tokens)[0]
        predicted = self.modules["unet"](given.noisy, given.times, context).sample.float()
        wanted, found = given.noise, {"reading": self.modules["reading"].loss(context, texts, lengths)}
        if chosen is not None:
            teacher, when = chosen
            share, seen = share_at(progress, *when), teacher.says(tokens, given, overview=not small and not kind.window)
            wanted = seen if own else torch.lerp(wanted, seen, share)
            if given.pairs:
                found["guided"] = share * losses.guided_error(predicted, seen, given, self.levels)
        if own:
            drawings.go_on(given, predicted.detach())
        else:
            found["labels"] = self.modules["labels"].loss(self.listener.features[:count], maps[:count].to(self.device))
        return found | {"own noise" if own else "noise": losses.noise_error(predicted - wanted, given.times, self.levels)}


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
    attention = TrainingAttention()
    if device.type == "cpu":
        modules["unet"].set_attn_processor(attention)
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    matrices = [weight for name in ("unet", "text_encoder") for weight in optimizers.hidden_matrices(modules[name])]
    run = training.Run(options, modules, parameters, 1e-2, 200 if options.begin_with is None else 40, matrices)
    budget, together = run.budget, run.together
    drawn_scenes = batches.Scenes(options.out, autoencoder, options.seed, device, options.scenes)
    lesson, running = Lesson(modules, tokenizer, teachers, device), {}
    while not budget.done:
        # Everything random comes from seed and step, so a resumed run continues as if it had never stopped; only own drawings begin anew.
        rng = np.random.default_rng((options.seed, 11, budget.step))
        torch.manual_seed(options.seed * 1_000_003 + budget.step + 500_000_003 * together.rank)
        kind, *batch = drawn_scenes.draw(rng, budget.progress if options.begin_with is None else 1.0, options.rows)
        own, batch = rng.random() < options.own, tuple(together.part(rows) for rows in batch)
        if together.rank:
            rng = np.random.default_rng((options.seed, 11, budget.step, together.rank))
        attention.thinned = options.thinned and budget.progress < THINNED_UNTIL
        with training.precision_for(device):
            found = lesson.of(kind, batch, rng, budget.progress, own)
            heads = 0.0 if options.begin_with is not None else max(0.0, 1 - budget.progress / LESSONS_END)
            weights = {"labels": heads * LABEL_WEIGHT, "reading": heads * READING_WEIGHT, "guided": GUIDED_WEIGHT}
            loss = sum(weights.get(name, 1.0) * value for name, value in found.items())
        run.learn(loss)
        for name, value in found.items():
            running[name] = 0.98 * running.get(name, value.item()) + 0.02 * value.item()
        if budget.step % 50 == 0:
            run.log(rate=run.optimizer.param_groups[0]["lr"], **running)
        if run.save_in_time():
            ours = run.average.modules
            write_model(options.out / "model", autoencoder, ours["text_encoder"], tokenizer, ours["unet"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
