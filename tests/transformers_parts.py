"""Stand-ins for the parts of pipelines that are not run: decoders, encoders of texts and pictures, checkers; and schedulers."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import diffusers
import torch

WIDTH, TOKENS, CHANNELS = 32, 7, 16
# Tokens of a text that is given as such: templates that are cut off again are longer than a text.
TOLD = 80


class Config(dict):
    """What is read by attribute, by key or by place."""

    def __getitem__(self, key: Any) -> Any:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)

    def to(self, *_: Any, **__: Any) -> Config:
        return self


class Part:
    """What pipelines move, count and ask for its type."""

    dtype, device = torch.float32, torch.device("cpu")

    def to(self, *_: Any, **__: Any) -> Part:
        return self

    def modules(self) -> list:
        return []

    def parameters(self) -> Iterator[torch.Tensor]:
        yield torch.zeros(1)


class Encoded(NamedTuple):
    """What encoders of different decoders call their latents, by name or the first."""

    latent_dist: Any
    latents: torch.Tensor
    latent: torch.Tensor


class Decoded(NamedTuple):
    sample: torch.Tensor


class Vae(Part):
    """What pipelines ask a decoder that they do not run: its compression and its channels.

    factor: pixels to a latent, along either side; a power of 2. channels: of the latents.
    """

    def __init__(self, factor: int = 8, channels: int = CHANNELS) -> None:
        halvings = factor.bit_length() - 1
        self.factor, self.temperal_downsample = factor, (*[False] * (halvings - 2), True, True)
        self.config = Config(
            latent_channels=channels,
            z_dim=channels,
            encoder_block_out_channels=(8,) * (halvings + 1),
            block_out_channels=(8,) * (halvings + 1),
            scaling_factor=1.0,
            batch_norm_eps=0.0,
            invert_scale_latents=False,
            shift_factor=0.0,
            patch_size=1,
            patch_size_t=1,
            temporal_compression_ratio=4,
            spatial_compression_ratio=factor,
            scale_factor_spatial=factor,
            scale_factor_temporal=4,
            latents_mean=[0.0] * channels,
            latents_std=[1.0] * channels,
            temporal_downsample=self.temperal_downsample,
        )
        self.spatial_compression_ratio, self.temporal_compression_ratio = factor, 4
        self.latents_mean, self.latents_std = torch.zeros(channels), torch.ones(channels)
        self.bn = types.SimpleNamespace(running_mean=torch.zeros(4 * channels), running_var=torch.ones(4 * channels))

    def encode(self, x: torch.Tensor, *_: Any, **__: Any) -> Encoded:
        """Latents of pictures [rows, 3, h, w] or of videos [rows, 3, frames, h, w]."""
        frames = ((x.shape[2] - 1) // 4 + 1,) if x.ndim == 5 else ()
        shape = (x.shape[0], self.config.latent_channels, *frames, x.shape[-2] // self.factor, x.shape[-1] // self.factor)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(9))
        return Encoded(types.SimpleNamespace(sample=lambda *_, **__: latents, mode=lambda: latents), latents, latents)

    def decode(self, latents: torch.Tensor, *_: Any, **__: Any) -> Decoded:
        """Pictures, or videos, of the first channels."""
        video = latents.ndim == 5
        frames = [0, *(1 + at // 4 for at in range(4 * (latents.shape[2] - 1)))] if video else ()
        shown = latents[:, :3, frames] if video else latents[:, :3]
        return Decoded(shown.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2))


class Tokenizer(Part):
    model_max_length, pad_token_id, eos_token_id, eos_token, image_processor = TOKENS, 0, 1, "", None

    def __call__(self, text: Any = "", *_: Any, return_tensors: str | None = None, **__: Any) -> Config:
        """Tokens [texts, TOLD], a list for a single text without ``return_tensors``: numbers that tell texts of different lengths apart."""
        texts = [text] if isinstance(text, str) else list(text)
        ids = torch.stack([torch.arange(TOLD) + len(one) % 32 for one in texts])
        if return_tensors is None:
            ids = ids.tolist()[0] if isinstance(text, str) else ids.tolist()
            return Config(input_ids=ids, attention_mask=[1] * TOLD)
        return Config(input_ids=ids, attention_mask=torch.ones_like(ids))


class Encoder(Part):
    """Text, or a picture, as embeddings [texts, tokens, WIDTH], on two layers."""

    config = Config(hidden_size=WIDTH, projection_dim=WIDTH, image_size=64)

    def __call__(self, input_ids: torch.Tensor | None = None, *_: Any, **__: Any) -> Config:
        shape = (1, TOKENS) if input_ids is None else tuple(input_ids.shape)
        generator = torch.Generator().manual_seed(0 if input_ids is None else int(input_ids.sum()))
        hidden = tuple(torch.randn(*shape, WIDTH, generator=generator) for _ in range(2))
        return Config(last_hidden_state=hidden[1], hidden_states=hidden, pooler_output=hidden[1][:, 0], image_embeds=hidden[1][:, 0])


class Checker(Part):
    """Lets everything pass."""

    def check_text_safety(self, *_: Any) -> bool:
        return True


_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
# With Helios' own gamma, 1/3, the covariance of its noise is singular: whether a Cholesky factor is found depends on the processor.
_SETTINGS = {name: {"gamma": 0.3} for name in ("HeliosScheduler", "HeliosDMDScheduler")}
_SETTINGS |= dict.fromkeys(("UniPCMultistepScheduler", "DPMSolverMultistepScheduler"), _FLOW)


def scheduler(words: str) -> Any:
    """The first scheduler that an annotation speaks of, for flow matching where it can be; one that goes with what it says otherwise."""
    for name in (word.split(".")[-1] for word in re.findall(r"[\w.]+", words)):
        if name.endswith("Scheduler") and hasattr(diffusers, name) and name != "SchedulerMixin":
            return getattr(diffusers, name)(**_SETTINGS.get(name, {}))
    return diffusers.FlowMatchEulerDiscreteScheduler() if "Scheduler" in words and "Karras" not in words else diffusers.DDIMScheduler()


def named(words: str, kind: type) -> type:
    """The model class that an annotation of the pipeline class ``kind`` speaks of."""
    for word in words.replace("|", " ").split():
        found_class = getattr(diffusers, word.split(".")[-1], None) or inspect.getmodule(kind).__dict__.get(word)
        if inspect.isclass(found_class):
            return found_class
    raise LookupError(f"no class {words}")
