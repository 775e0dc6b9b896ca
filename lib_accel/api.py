"""The two ways in: two functions on a model, and a context manager around methods."""

from __future__ import annotations

from typing import Any

from .backends import backend_for
from .core.sites import UnsupportedModelError, find_unet
from .engine.accelerator import Accelerator
from .engine.at_work import accelerator_of
from .engine.thresholds import Thresholds
from .methods import AgentAttention, HostTraits


def accelerated(model: Any, *methods: Any, traits: HostTraits | None = None, auto: bool | Thresholds | None = None) -> Accelerator:
    """Accelerate ``model`` by ``methods`` from now on; ``with`` (or ``.remove()``) takes it back.

    model: a diffusers pipeline, its U-Net or transformer (on which `Forecast` acts), an LDM ``LatentDiffusion``, an SGM engine, or the bare
    U-Net of one. A second call on the same model replaces the first. methods: settings objects (`AgentAttention`, `TokenMerging`); methods
    that act on the same layers need windows that do not overlap. auto: whether methods act only where they pay, by default they do (see
    `Accelerator`).
    UnsupportedModelError, SettingError; the model is untouched then.

    Pipelines that share the U-Net are accelerated, too, each by its own guidance and schedule; in threads one job at a time is, and the
    others' calls run plain meanwhile.

        with accelerated(pipe, AgentAttention(), TokenMerging(ratio=0.4, window=(0.4, 1))) as accelerator:
            image = pipe(prompt).images[0]
        print(accelerator.report())
    """
    return Accelerator(model, *methods, traits=traits, auto=auto)


def apply_patch(
    model: Any,
    ratio: float = 0.5,
    max_downsample: int = 1,
    sx: int = 2,
    sy: int = 2,
    agent_ratio: float = 0.8,
    k_scale2: float = 0.3,
    k_shortcut: float = 0.075,
    attn_precision: str | None = None,
    use_rand: bool = True,
    merge_attn: bool = True,
    merge_crossattn: bool = False,
    merge_mlp: bool = False,
) -> Any:
    """Apply agent attention and token merging to ``model`` for every step; returns ``model``. Again: replaces.

    Parameters, ranges and published defaults as in AgentSD; see `AgentAttention`. With these defaults agents are not fewer than half
    of the merged tokens (unless a side of the grid is odd), so they do not come into play and this is token merging alone, as it is in
    AgentSD; the report says so.
    sx=sy=4, ratio=0.4, agent_ratio=0.95 uses them. max_downsample counts from the finest level of the U-Net that has attention.
    """
    config = AgentAttention(
        ratio=ratio,
        agent_ratio=agent_ratio,
        sx=sx,
        sy=sy,
        max_downsample=max_downsample,
        use_rand=use_rand,
        merge_attn=merge_attn,
        merge_crossattn=merge_crossattn,
        merge_mlp=merge_mlp,
        k_scale2=k_scale2,
        k_shortcut=k_shortcut,
        attn_precision=attn_precision,
        window=(0.0, 1.0),
    )
    unet = find_unet(model)
    if backend_for(unet).whole_calls_only:
        sentence = "{} is a transformer, of which Accel leaves out whole calls alone: use accelerated(model, Forecast())."
        raise UnsupportedModelError(sentence.format(type(unet).__name__))
    Accelerator(model, config, auto=False)
    return model


def remove_patch(model: Any) -> Any:
    """Take back whatever accelerates ``model``; returns ``model``, as it was. Does nothing when nothing does."""
    accelerator = accelerator_of(find_unet(model))
    if accelerator is not None:
        accelerator.remove()
    return model


def is_patched(model: Any) -> bool:
    """Whether an accelerator is at work on ``model``."""
    return accelerator_of(find_unet(model)) is not None


def patch_report(model: Any) -> Any:
    """The report of the accelerator at work on ``model``; None when none is."""
    accelerator = accelerator_of(find_unet(model))
    return None if accelerator is None else accelerator.report()
