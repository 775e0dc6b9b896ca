"""PyPI's `tgate` 1.0.0 as a peer: its own pipeline loop and its own attention layers, on the pipeline that the others run on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from lib_accel.cli.errors import CommandError
from lib_accel.core.schedule import first_step

GATE = 0.4
# What it takes if nothing is said: until the gate self-attention is run every fifth step only, but for the first two.
WITH_SELF = {"sp_interval": 5, "fi_interval": 1, "warm_up": 2}
WITHOUT_SELF = {"sp_interval": 1, "fi_interval": 1, "warm_up": 0}
LOADERS = {"StableDiffusionPipeline": "TgateSDLoader", "StableDiffusionXLPipeline": "TgateSDXLLoader"}
# What it leaves on attention layers.
LEFT = ("forward", "cache")


@contextmanager
def published_tgate(model: Any, with_self: bool = False) -> Iterator[None]:
    """T-GATE as published (Liu et al., arXiv 2404.02747), gate at 0.4 of the steps. with_self: self-attention is cached too, as it does by
    default; else cross-attention alone.

    CommandError for what is no Stable Diffusion pipeline; whatever importing or running it raises goes its way.
    """
    loader = LOADERS.get(type(model).__name__)
    if loader is None:
        raise CommandError("it runs diffusers' Stable Diffusion pipelines only (--pipeline, or --model)")
    import tgate

    layers = [module for name, module in model.unet.named_modules() if name.endswith(("attn1", "attn2"))]
    before = [{name: vars(layer)[name] for name in LEFT if name in vars(layer)} for layer in layers]
    getattr(tgate, loader)(model)
    model.stands_in = partial(_run, model, WITH_SELF if with_self else WITHOUT_SELF)
    try:
        yield
    finally:
        del model.stands_in
        for layer, own in zip(layers, before):
            for name in LEFT:
                vars(layer).pop(name, None)
            vars(layer).update(own)


def _run(pipeline: Any, intervals: dict[str, int], *args: Any, num_inference_steps: int, **given: Any) -> Any:
    gate = max(1, first_step(GATE, num_inference_steps))
    return pipeline.tgate(*args, gate_step=gate, **intervals, num_inference_steps=num_inference_steps, **given)
