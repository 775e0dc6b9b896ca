"""What is timed: single U-Net calls and whole generations, of a named shape with random weights or of a model from disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..backends import backend_for
from ..core.rows import Layout, Row
from ..core.sites import find_unet, is_transformer
from .inputs import UNetInputs, knows
from .measuring import Work
from .passes import asked, first_of, one_call
from .random_pipeline import embeddings_for

PROMPT = "a photo of a lighthouse on a rocky coast at dusk"
# Of the passes that `Sampling` makes, by the name that methods know it by.
SAMPLER = "Euler"


def sdpa_forward(self, x, context=None, mask=None, **kwargs):
    """What the WebUI's usual optimiser makes of LDM's ``CrossAttention.forward``: no map of scores is held. Masks are not for it."""
    context = x if context is None else context
    q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.to_q(x), self.to_k(context), self.to_v(context)))
    out = F.scaled_dot_product_attention(q, k, v)
    return self.to_out(out.transpose(1, 2).flatten(2))


@contextmanager
def class_level_sdpa() -> Iterator[None]:
    """LDM's CrossAttention on scaled-dot-product attention, put in at class level as the WebUI does."""
    from ldm.modules.attention import CrossAttention

    before = CrossAttention.forward
    CrossAttention.forward = sdpa_forward
    try:
        yield
    finally:
        CrossAttention.forward = before


@contextmanager
def as_hosts_run_it(unet: nn.Module, device: str, dtype: torch.dtype) -> Iterator[None]:
    """LDM's classes as the WebUI runs them: scaled-dot-product attention at class level, half precision under autocast with float32 norms.

    Other U-Nets need nothing.
    """
    with ExitStack() as stack:
        if hasattr(unet, "input_blocks"):
            stack.enter_context(class_level_sdpa())
            # What it casts its input to; another dtype may have been run before.
            unet.dtype = dtype
            if dtype != torch.float32:
                for module in unet.modules():
                    if isinstance(module, nn.GroupNorm):
                        module.float()
                stack.enter_context(torch.autocast(device.partition(":")[0], dtype))
        yield


def single_call(unet: nn.Module, size: int, batch: int, dtype: torch.dtype, device: str) -> Work:
    """One call of ``unet`` with ``batch`` rows."""
    inputs = UNetInputs(unet, size, batch, dtype, device)
    return lambda accelerator: inputs(unet)


class Sampling:
    """A pass as pipelines make it, without text encoder and autoencoder: ``steps`` of an Euler sampler, guided above 1.

    batch: rows of a U-Net call; with guidance a picture takes two, so it is even.
    """

    def __init__(self, unet: nn.Module, size: int, batch: int, dtype: torch.dtype, device: str, steps: int, guidance: float) -> None:
        from diffusers import EulerDiscreteScheduler

        self.steps, self.guidance, self._unet, self._batch = steps, guidance, unet, batch
        self._dtype, self._device = dtype, device
        self._inputs = UNetInputs(unet, size, batch, dtype, device)
        self._scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1)

    def begin(self) -> torch.Tensor:
        """The latents that a pass begins with. Any step may follow."""
        self._scheduler.set_timesteps(self.steps, device=self._device)
        pictures = self._batch // 2 if self.guidance > 1 else self._batch
        return self._inputs.latents[:pictures] * self._scheduler.init_noise_sigma

    def step(self, accelerator: Any, index: int, latents: torch.Tensor) -> torch.Tensor:
        """The latents after step ``index``."""
        guided, timestep = self.guidance > 1, self._scheduler.timesteps[index]
        if accelerator is not None:
            rows = Layout.guided(self._batch) if guided else [Row("cond", image) for image in range(self._batch)]
            sigmas = self._scheduler.sigmas.tolist()
            accelerator.step(index, self.steps, rows, self.guidance, sigmas[index], sampler=SAMPLER, sigmas=sigmas)
        given = self._scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, timestep)
        predicted = self._inputs(self._unet, given, timestep)[:, : latents.shape[1]]
        if guided:
            without, with_text = predicted.chunk(2)
            predicted = without + self.guidance * (with_text - without)
        return self._scheduler.step(predicted, timestep, latents).prev_sample.to(self._dtype)

    def __call__(self, accelerator: Any) -> torch.Tensor:
        """The whole pass; its latents."""
        latents = self.begin()
        for index in range(self.steps):
            latents = self.step(accelerator, index, latents)
        return latents


def pipeline_run(pipeline: Any, size: int, batch: int, steps: int, guidance: float) -> Work:
    """A whole generation of a real pipeline, text encoder and autoencoder included. batch: rows of a U-Net call, as in `Sampling`."""
    guided = guidance > 1
    pipeline.set_progress_bar_config(disable=True)

    pictures = batch // 2 if guided else batch
    embedded = {}
    if hasattr(pipeline, "unet") and getattr(pipeline, "text_encoder", None) is None:
        embedded = embeddings_for(pipeline, pictures)

    def run(accelerator: Any) -> Any:
        given = asked(pipeline, PROMPT, steps, guidance, size, pictures=pictures, embedded=embedded)
        # A peer may bring its own loop.
        return first_of(getattr(pipeline, "stands_in", pipeline)(**given))

    return run


def call_of_pass(pipeline: Any, size: int, batch: int, guidance: float) -> Work:
    """One call of a transformer as a pass of its pipeline makes it, with ``batch`` rows where a picture takes one or two."""
    pipeline.set_progress_bar_config(disable=True)
    model = find_unet(pipeline)
    args, kwargs = one_call(pipeline, PROMPT, size, guidance, 1)
    rows = len(backend_for(model).sample_of(args, kwargs))
    if batch > rows:
        args, kwargs = one_call(pipeline, PROMPT, size, guidance, batch // rows)
    return lambda accelerator: model(*args, **kwargs)


def work_for(model: Any, size: int, batch: int, dtype: torch.dtype, device: str, steps: int | None, guidance: float) -> Work:
    """``steps`` None: a single call; else a whole generation, by the pipeline itself where ``model`` is one."""
    unet = find_unet(model)
    if steps is None and is_transformer(unet) and unet is not model and not knows(unet):
        return call_of_pass(model, size, batch, guidance)
    if steps is None:
        return single_call(unet, size, batch, dtype, device)
    if unet is model:
        return Sampling(unet, size, batch, dtype, device, steps, guidance)
    return pipeline_run(model, size, batch, steps, guidance)
