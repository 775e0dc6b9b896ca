"""What a U-Net learns from a trained one, its teacher: the noise without chance, and what to do with its own mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from lib_accel.sample import load_pipeline

from .attention import TrainingAttention
from .losses import Noised, guided, noise_levels

# Of the noise to predict, the part that a teacher says and not the noise that was added, and the progress from which it falls to nothing:
# for small scenes, which the teacher draws well, and for large ones.
TEACHER_PIXELS = 256
SMALL_TEACHER, LARGE_TEACHER = (0.9, 0.97), (0.8, 0.96)
OVERVIEW_FROM = 800  # timestep from which on a large scene's layout is what the teacher says about half of its size
PAIRED = 1 / 2  # of the rows of a batch with a teacher, those that repeat others with other captions


def started_from(folder: Path, device) -> dict:
    """The U-Net and the text encoder of a trained model, to train on, by their names."""
    pipeline = load_pipeline(folder=folder, device=str(device))
    return {name: getattr(pipeline, name).train() for name in ("unet", "text_encoder")}


class Teacher:
    """A trained model that says which noise it sees. What was added is that and chance; without the chance a network learns faster."""

    def __init__(self, folder: Path, device):
        parts = started_from(folder, device)
        self.unet, self.text_encoder = (part.eval().requires_grad_(False) for part in parts.values())
        if device.type == "cpu":
            # Some of the keys are enough: what that changes is a thirtieth of what a U-Net is wrong by.
            self.unet.set_attn_processor(TrainingAttention(thinned=True))

        self.levels = noise_levels().to(device)

    @torch.no_grad()
    def says(self, tokens: torch.Tensor, given: Noised, overview: bool = False) -> torch.Tensor:
        """The noise that it sees in every row of `given`, which has these token numbers (rows, 77).

        overview: where noise hides all but the layout, take the layout from the scene at half its size. A teacher that draws small scenes
        better knows better there how large an object is and where (mean square error at timestep 985, on cells of 8x8 latent pixels: 0.019
        and not 0.035; below 800 it is the same).
        """
        context = self.text_encoder(tokens)[0]
        noise = self.unet(given.noisy, given.times, context).sample.float()
        early = given.times >= OVERVIEW_FROM
        if overview and early.any():
            noise[early] = self._with_layout(noise[early], given.noisy[early], given.times[early], context[early])
        return noise

    def _with_layout(self, noise: torch.Tensor, noisy: torch.Tensor, times: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """``noise`` with another picture's layout: of the one that the teacher sees in the mean of every 2x2 latent pixels."""
        # Means of four have half of the noise, so as much as there is at an earlier timestep, and the signal of a scene of half the size.
        ratios = (1 - self.levels) / self.levels
        sooner = (ratios - ratios[times].view(-1, 1) / 4).abs().argmin(1)
        left, more = (self.levels[part].view(-1, 1, 1, 1) for part in (times, sooner))
        small = functional.avg_pool2d(noisy, 2) * (more / left).sqrt()
        seen = (small - (1 - more).sqrt() * self.unet(small, sooner, context).sample.float()) / more.sqrt()
        picture = (noisy - (1 - left).sqrt() * noise) / left.sqrt()
        off = functional.avg_pool2d(seen, 2) - functional.avg_pool2d(picture, 4)
        picture = picture + functional.interpolate(off, scale_factor=4)
        return (noisy - left.sqrt() * picture) / (1 - left).sqrt()


def share_at(progress: float, most: float, fades: float) -> float:
    """A teacher's part, 0 to 1, at ``progress`` (0..1) of a training: ``most``, and from ``fades`` on less, to nothing."""
    return most * min(1.0, (1 - progress) / (1 - fades))


@dataclass
class Drawing:
    """A picture that the U-Net is drawing: latents (4, h, w), how noisy they are, its caption and its guidance scale."""

    latents: torch.Tensor
    time: int
    text: str
    scale: float


class Drawings:
    """Pictures of one size that the U-Net which learns is drawing with guidance, a step of each at a time.

    On them it meets its own mistakes, and a teacher says what to do there (DAgger: Ross et al. 2011, arXiv 1011.0686). On scenes with noise
    it never meets them.
    """

    COUNT, STEPS, LAST, SCALES = 32, (20, 160), 20, (2.0, 7.5)

    def __init__(self, size: tuple, levels: torch.Tensor):
        self.size, self.levels, self.all, self.taken = size, levels, [], []

    def begin(self, text: str) -> None:
        """A new one, which is nothing but noise yet."""
        low, high = self.SCALES
        scale = low + (high - low) * torch.rand(()).item()
        self.all.append(Drawing(torch.randn(4, *self.size), len(self.levels) - 1 - int(20 * torch.rand(())), text, scale))

    def take(self, count: int) -> tuple[Noised, list]:
        """`count` of them at random, each twice as a pair, and their captions; `go_on` puts them back."""
        self.taken = [self.all.pop(int(torch.randint(len(self.all), ()))) for _ in range(count)]
        noisy = torch.stack([drawing.latents for drawing in self.taken]).to(self.levels.device)
        times = torch.tensor([drawing.time for drawing in self.taken], device=self.levels.device)
        return Noised(torch.cat((noisy, noisy)), torch.cat((times, times)), None, count), [drawing.text for drawing in self.taken]

    @torch.no_grad()
    def go_on(self, given: Noised, predicted: torch.Tensor) -> None:
        """A step of those that were taken, with the noise that the U-Net `predicted` in `given`. Finished ones are gone."""
        scales = torch.tensor([drawing.scale for drawing in self.taken], device=predicted.device).view(-1, 1, 1, 1)
        noise, times = guided(predicted.float(), given.pairs, scales), given.times[: given.pairs]
        later = times - torch.randint(*self.STEPS, times.shape).to(times.device)
        left, then = (self.levels[part.clamp(min=0)].view(-1, 1, 1, 1) for part in (times, later))
        picture = (given.noisy[: given.pairs] - (1 - left).sqrt() * noise) / left.sqrt()
        for drawing, latents, time in zip(self.taken, then.sqrt() * picture + (1 - then).sqrt() * noise, later.tolist()):
            if time >= self.LAST:
                self.all.append(Drawing(latents.cpu(), time, drawing.text, drawing.scale))
        self.taken = []
