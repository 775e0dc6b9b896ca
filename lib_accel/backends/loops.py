"""Whose U-Net call it is: the loop of a diffusers pipeline that a call comes from, and what is known of it.

Pipelines share U-Nets (``from_pipe``), and people call a pipeline's U-Net by hand. What a pipeline says of itself (its guidance scale, its
schedule) holds only for calls of its own loop, so the loop is looked for where the call comes from: among the frames below it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..core.conditions import version_of
from ..core.reasons import Reason
from ..core.sites import FIRST, SECOND, is_transformer

# Pipelines of diffusers that run the U-Net once per evaluation, on the unconditional rows and then the conditional ones, or, unguided, on
# the conditional ones alone. Others combine predictions in ways of their own, and so may subclasses with a loop of their own.
PAIRED = frozenset(
    {
        "AltDiffusionImg2ImgPipeline",
        "AltDiffusionPipeline",
        "KolorsImg2ImgPipeline",
        "KolorsPAGPipeline",
        "KolorsPipeline",
        "LatentConsistencyModelImg2ImgPipeline",
        "LatentConsistencyModelPipeline",
        "PixArtAlphaPipeline",
        "PixArtSigmaPipeline",
        "StableDiffusionAdapterPipeline",
        "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline",
        "StableDiffusionControlNetPAGInpaintPipeline",
        "StableDiffusionControlNetPAGPipeline",
        "StableDiffusionControlNetPipeline",
        "StableDiffusionDepth2ImgPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionLDM3DPipeline",
        "StableDiffusionPAGImg2ImgPipeline",
        "StableDiffusionPAGInpaintPipeline",
        "StableDiffusionPAGPipeline",
        "StableDiffusionPipeline",
        "StableDiffusionXLAdapterPipeline",
        "StableDiffusionXLControlNetImg2ImgPipeline",
        "StableDiffusionXLControlNetInpaintPipeline",
        "StableDiffusionXLControlNetPAGImg2ImgPipeline",
        "StableDiffusionXLControlNetPAGPipeline",
        "StableDiffusionXLControlNetPipeline",
        "StableDiffusionXLControlNetUnionImg2ImgPipeline",
        "StableDiffusionXLControlNetUnionInpaintPipeline",
        "StableDiffusionXLControlNetUnionPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLPAGImg2ImgPipeline",
        "StableDiffusionXLPAGInpaintPipeline",
        "StableDiffusionXLPAGPipeline",
        "StableDiffusionXLPipeline",
    }
)


# What a loop draws into or by besides texts, as far as callbacks are handed it. Where the model is not given it, it changes no prediction.
PICTURES = ("mask", "masked_image_latents", "image_latents", "depth_mask", "image", "control_image")
LATENTS_ALONE = 4
# References to the copy of a frame's locals that nobody else asked for: the frame's, two names here, the one that counts.
OURS_ALONE = 4
# What blocks of modular pipelines call the pipeline.
COMPONENTS = "components"


@dataclass(frozen=True)
class Loop:
    """A pipeline's loop that a U-Net call comes from.

    pipeline: whose. name: the class that the loop is written in. direct: whether the loop itself calls the U-Net, and no callback in it.
    paired: whether its rows are those of `PAIRED`. guided: whether it guides now, None when it does not tell. timesteps: the schedule that
    it goes through, or a part of it; None when it does not tell. timestep: the one that it is at, None when it does not tell. told: its
    variables, by name.
    """

    pipeline: Any
    name: str
    direct: bool
    paired: bool
    guided: bool | None
    timesteps: torch.Tensor | None
    timestep: Any = None
    told: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def why_unknown(self) -> str | None:
        """Why it is not known whose rows a call holds (a clause), or None: it is."""
        if not self.direct:
            return Reason.of("beside_the_loop", "the U-Net was called outside the loop of {pipeline}", pipeline=self.name)
        if not self.paired:
            return Reason.of("order_unknown", "Accel does not know how {pipeline} orders its rows", pipeline=self.name)
        if self.guided is None:
            return Reason.of("guidance_untold", "{pipeline} does not tell whether it guides", pipeline=self.name)
        return None


def calling_loop(unet: nn.Module, ident: int | None = None) -> Loop | None:
    """The innermost loop of a pipeline with this U-Net that the present call comes from; None: nobody's, or one of somebody's own.

    ident: another thread, which is asked whether it is in such a loop.
    """
    frame = sys._getframe(1) if ident is None else sys._current_frames().get(ident)
    below, transformer = None, is_transformer(unet)
    while frame is not None:
        if frame.f_code.co_varnames[:1] == ("self",) and frame.f_code.co_argcount:
            # Only now: the locals of a frame are copied when they are asked for.
            held = frame.f_locals
            holder = held.get("self")
            if holder is unet:
                below = frame.f_back
            elif _holds(holder, unet):
                return _read(holder, frame, direct=frame is below)
            elif transformer and COMPONENTS in frame.f_code.co_varnames[: frame.f_code.co_argcount]:
                components = held.get(COMPONENTS)
                if _holds(components, unet):
                    return _read_block(components, frame, direct=frame is below)
            _let_go(held)
        frame = frame.f_back
    return None


def _let_go(held: Mapping[str, Any]) -> None:
    """Before Python 3.13 a frame keeps the copy of its locals, and with it models that its function deletes later. A copy that somebody
    asked for (``locals()``) is theirs."""
    if sys.version_info < (3, 13) and sys.getrefcount(held) <= OURS_ALONE:
        held.clear()


def _holds(holder: Any, unet: nn.Module) -> bool:
    """Whether ``holder`` is a pipeline with this U-Net. Looks at attributes without asking for them: it may be anything."""
    own = getattr(holder, "__dict__", None)
    if not isinstance(own, dict) or own.get("scheduler") is None or isinstance(holder, nn.Module):
        return False
    held = [own[name] for name in ("unet", FIRST, SECOND) if isinstance(own.get(name), nn.Module)]
    return any(getattr(one, "_orig_mod", one) is unet for one in held)


def _read(pipeline: Any, frame: Any, direct: bool) -> Loop:
    owner, told = _owner(pipeline, frame), frame.f_locals
    guided = told.get("do_classifier_free_guidance")
    if guided is None:
        guided = getattr(pipeline, "do_classifier_free_guidance", None)
    paired = owner is not None and owner.__name__ in PAIRED and owner.__module__.startswith("diffusers.pipelines.")
    # A third kind of row.
    paired = paired and not getattr(pipeline, "do_perturbed_attention_guidance", False)
    timesteps = told.get("timesteps")
    if not isinstance(timesteps, torch.Tensor) or timesteps.ndim != 1 or not timesteps.numel():
        timesteps = None
    name, guides = (owner or type(pipeline)).__name__, None if guided is None else bool(guided)
    return Loop(pipeline, name, direct, paired, guides, timesteps, told.get("t"), told)


def _read_block(pipeline: Any, frame: Any, direct: bool) -> Loop:
    """What a block of a modular pipeline tells, which is given the pipeline and the state of its loop."""
    told = {**vars(frame.f_locals.get("block_state", _Nothing())), **frame.f_locals}
    timesteps = told.get("timesteps")
    timesteps = timesteps if isinstance(timesteps, torch.Tensor) and timesteps.ndim == 1 and timesteps.numel() else None
    return Loop(pipeline, type(frame.f_locals.get("self")).__name__, direct, False, None, timesteps, told.get("t"), told)


class _Nothing:
    """In the place of a state that a block has not."""


def _owner(pipeline: Any, frame: Any) -> type | None:
    """The class whose ``__call__`` runs in this frame. One that somebody replaced, and calls, is known by where it was written."""
    kinds = type(pipeline).__mro__
    for kind in kinds:
        call = kind.__dict__.get("__call__")
        if call is not None and getattr(inspect.unwrap(call), "__code__", None) is frame.f_code:
            return kind
    written_in = frame.f_globals.get("__name__")
    replaced = (kind for kind in kinds if frame.f_code.co_name == "__call__" and kind.__module__ == written_in)
    return next(replaced, None)


def residuals_of(loop: Loop | None) -> Hashable:
    """What ``loop`` adds to the U-Net's stages in this step: how strongly each ControlNet acts, which may begin or end in mid-pass, and
    whether an adapter does; None where it adds nothing."""
    if loop is None or not loop.direct:
        return None
    controls, adapter = loop.told.get("cond_scale"), loop.told.get("down_intrablock_additional_residuals")
    return None if controls is None and adapter is None else (_frozen(controls), adapter is not None)


def pictures_of(loop: Loop | None) -> Hashable:
    """Which mask and pictures ``loop`` gives its model in this step, which a callback may change in mid-pass; None where it gives none."""
    # Those with perturbed attention make their mask anew in every step.
    if loop is None or not loop.direct or "PAG" in loop.name or loop.told.get("num_channels_unet") == LATENTS_ALONE:
        return None
    handed = getattr(loop.pipeline, "_callback_tensor_inputs", None) or ()
    tensors = [(name, loop.told.get(name)) for name in PICTURES if name in handed]
    return tuple((name, id(one), version_of(one)) for name, one in tensors if isinstance(one, torch.Tensor)) or None


def other_model(pipeline: Any) -> Reason | None:
    """That ``pipeline`` holds a further model of its transformer's class, whose predictions it combines with the transformer's (a clause).

    None: it holds none. The two of `held_second` draw in turn.
    """
    own = getattr(pipeline, "__dict__", None) or {}
    first, second = (getattr(own.get(name), "_orig_mod", own.get(name)) for name in (FIRST, SECOND))
    if not is_transformer(first):
        return None
    parts = ((name, getattr(part, "_orig_mod", part)) for name, part in own.items() if isinstance(part, nn.Module))
    name = next((name for name, part in parts if type(part) is type(first) and part is not first and part is not second), None)
    return None if name is None else Reason.of("other_model", "what it predicts is combined with what {part} does", part=name)


def _frozen(value: Any) -> Hashable:
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    return value if value is None or isinstance(value, (int, float)) else str(value)
