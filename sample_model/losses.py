"""What the U-Net's training compares: noisy latents, the noise to predict, and how much an error counts at each timestep."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lib_accel.sample.architecture import SCHEDULER

SNR_LIMIT = 5.0
# Where the noise outweighs the picture, words and outlines are decided, and the error of the noise is small however wrong they are.
EARLY_LIMIT = 3.0
GUIDED_EARLY_LIMIT = 12.0  # the same for guided noise, which a teacher says without chance
# Even the noisiest timestep lets the mean of a whole picture shine through. A model that trusts it reads "grey" from the pure
# noise that drawing starts from; a random offset hides the mean, and the words have to say which background it is.
OFFSET_NOISE = 0.15
# Where a group of a normalisation is one channel, as with 32 channels, the last one takes each channel's mean away, and a network learns
# late to say it in other ways. The mean's error counts more for that; the noise that is best to predict stays the same.
MEAN_WEIGHT = 4.0
GUIDANCE = 5.0  # at which the guided noise is compared


def noise_levels() -> torch.Tensor:
    """Share of the signal's variance that is left at each of the 1000 timesteps (`alphas_cumprod`)."""
    betas = (
        torch.linspace(SCHEDULER["beta_start"] ** 0.5, SCHEDULER["beta_end"] ** 0.5, SCHEDULER["num_train_timesteps"], dtype=torch.float64)
        ** 2
    )
    return torch.cumprod(1 - betas, 0).float()


@dataclass
class Noised:
    """What the U-Net sees. noisy: latents (rows, 4, h, w); times: timesteps (rows,); noise: what was added, None where nobody knows.

    The last `pairs` rows are the first `pairs` ones again, to be seen with other captions.
    """

    noisy: torch.Tensor
    times: torch.Tensor
    noise: torch.Tensor | None
    pairs: int = 0


def with_pairs(rows: torch.Tensor, pairs: int) -> torch.Tensor:
    """``rows``, and the first `pairs` of them once more at the end."""
    return torch.cat((rows, rows[:pairs])) if pairs else rows


def add_noise(clean: torch.Tensor, levels: torch.Tensor, early: float = 1.0, pairs: int = 0) -> Noised:
    """Noise on clean latents (rows, 4, h, w) at random timesteps. early: as of a `batches.Kind`. pairs: rows to repeat."""
    rows = clean.shape[0]
    # One timestep from each of `rows` equal slices: the loss of a batch then wobbles less than with free draws.
    slices = ((torch.arange(rows) + torch.rand(rows)) / rows) ** early
    if pairs:  # not always the least noisy ones
        slices = slices[torch.randperm(rows)]
    times = (slices * len(levels)).long().clamp(max=len(levels) - 1).to(clean.device)
    left = levels[times].view(-1, 1, 1, 1)
    noise = torch.randn(clean.shape) + OFFSET_NOISE * torch.randn(*clean.shape[:2], 1, 1)
    noise = noise.to(clean.device)
    noisy = left.sqrt() * clean + (1 - left).sqrt() * noise
    return Noised(*(with_pairs(part, pairs) for part in (noisy, times, noise)), pairs)


def guided(predicted: torch.Tensor, pairs: int, scale: float | torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance of a `Noised` batch's pairs: (pairs, 4, h, w)."""
    return torch.lerp(predicted[-pairs:], predicted[:pairs], torch.as_tensor(scale, dtype=predicted.dtype))


def noise_error(error: torch.Tensor, times: torch.Tensor, levels: torch.Tensor, early_limit: float = EARLY_LIMIT) -> torch.Tensor:
    """Weighted mean of squares of the predicted noise's error (rows, 4, h, w) at `times` (rows,)."""
    snr = (levels / (1 - levels))[times]
    weight = snr.clamp(max=SNR_LIMIT) / snr * (1 + 1 / snr).clamp(max=early_limit)
    errors = error.square().mean(dim=(1, 2, 3)) + MEAN_WEIGHT * error.mean(dim=(2, 3)).square().mean(dim=1)
    return (weight * errors).mean()


def guided_error(predicted: torch.Tensor, wanted: torch.Tensor, given: Noised, levels: torch.Tensor) -> torch.Tensor:
    """The same of the guided noise, by a square of GUIDANCE smaller. Both are predictions for all rows of `given`.

    Guidance multiplies the small difference that a caption makes, and it is what pictures are drawn with; in the error of every row alone
    that difference hardly counts.
    """
    error = guided(predicted - wanted, given.pairs, GUIDANCE) / GUIDANCE
    return noise_error(error, given.times[: given.pairs], levels, GUIDED_EARLY_LIMIT)
