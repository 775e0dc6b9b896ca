"""What the backends share: reading calls of U-Nets and layers, and attention split into its projections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..core.conditions import tensors_in
from ..core.model_words import UNET
from ..core.reasons import Reason
from ..core.row_slicing import cut_rows, prediction_of
from ..core.sites import PARTS, Site
from ..core.stages import Stage
from . import known

JOINING_FORWARD = Reason.of("joining_forward", "another forward may add to what stages return")


@dataclass(frozen=True)
class LayerCall:
    """A call of attn1, attn2 or ff, taken apart.

    x: [rows, tokens, C] the tokens. own: why the layer must run as it is on these tokens, or None. with_tokens: the call's
    (args, kwargs) with other tokens in x's place and, if given, with a context that keys and values are taken from. has_context: whether it
    was given a context (a text) of other tokens. context: [rows, K, C] that context, or None.
    """

    x: Any
    own: str | None
    with_tokens: Callable[..., tuple[tuple, dict]]
    has_context: bool = False
    context: torch.Tensor | None = None


class Backend:
    """How one family of U-Nets is read. Subclasses say what they are called and where things are."""

    name = ""
    looked_for = ""
    # What its models are called; see `told_of`.
    noun = UNET
    # Whether nothing of its inside is known: no sites, no stages, only whole calls can be left out.
    whole_calls_only = False
    sample_name = "x"
    timestep_name = "timesteps"
    tokens_name = "x"
    context_name = "context"
    mask_name = "mask"
    # The arguments of an attention layer, in order.
    attention_arguments: tuple[str, ...] = ("x", "context", "mask")
    # Further arguments that stand in nobody's way, by part.
    harmless: Mapping[str, frozenset[str]] = {}

    def matches(self, unet: nn.Module) -> bool:
        raise NotImplementedError

    def find_sites(self, unet: nn.Module) -> list[Site]:
        raise NotImplementedError

    def find_stages(self, unet: nn.Module) -> tuple[Stage, ...]:
        """The U-Net's stages in order of execution; none where it is built in a way that Accel does not know."""
        return ()

    def together(self, unet: nn.Module, forward: Any, args: tuple, kwargs: dict) -> str | None:
        """Why the deep stages of a U-Net call must run on all of its rows or on none (a clause), or None.

        forward: what the U-Net itself carries below ours, None where its class's runs.
        """
        return None if forward is None else JOINING_FORWARD

    def joins(self, unet: nn.Module, args: tuple, kwargs: dict) -> str | None:
        """What may join something of its own to what stages return in this U-Net call (a clause), or None."""
        forward = known.own_forward(unet)
        # Offloading runs the U-Net in a forward of its own.
        made_by = str(getattr(getattr(forward, "func", forward), "__module__", ""))
        return self.together(unet, None if made_by.startswith("accelerate.") else forward, args, kwargs)

    def module_output(self, module: nn.Module, kwargs: dict, out: torch.Tensor) -> Any:
        """What a stage's module returns for ``out`` [rows, C, h, w] when it is called with these arguments."""
        return out

    def module_result(self, out: Any) -> torch.Tensor:
        """The tensor [rows, C, h, w] in what a stage's module returned."""
        return out[0] if isinstance(out, tuple) else getattr(out, "sample", out)

    def sample_of(self, args: tuple, kwargs: dict) -> torch.Tensor:
        """The noisy latents [rows, channels, h, w] of a U-Net call."""
        return args[0] if args else kwargs[self.sample_name]

    def prediction_of(self, output: Any) -> torch.Tensor | None:
        """The prediction [rows, ...] in what a U-Net call returned; None when there is none that Accel knows."""
        return prediction_of(output)

    def call_must_run(self, unet: nn.Module, args: tuple, kwargs: dict) -> str | None:
        """Why this call may not be served as a whole (a clause), apart from what is on `must_run`'s sites; None: it may."""
        return None

    def text_of(self, unet: nn.Module, args: tuple, kwargs: dict) -> Any:
        """What the rows of a guided call can be told apart by where nobody else tells them; None: nothing."""
        return None

    def output_of(self, unet: nn.Module, args: tuple, kwargs: dict, prediction: torch.Tensor) -> Any:
        """What a U-Net call with these arguments returns for ``prediction`` [rows, ...]."""
        return prediction

    def grid_of(self, unet: nn.Module, sample: torch.Tensor) -> tuple[int, int] | None:
        """The grid (h, w) in tokens of all sites for latents ``sample``; None where each spatial transformer has its own."""
        return None

    def timestep_of(self, args: tuple, kwargs: dict) -> Any:
        """The timestep of a U-Net call as given: a number, a tensor (scalar or one per row) or None."""
        return args[1] if len(args) > 1 else kwargs.get(self.timestep_name)

    def tokens_of(self, args: tuple, kwargs: dict) -> torch.Tensor | None:
        """First argument of a block's or transformer's call, positional or by name."""
        return args[0] if args else kwargs.get(self.tokens_name)

    def read_layer(self, part: str, args: tuple, kwargs: dict) -> LayerCall:
        """Take a call of ``part`` apart. Whatever the backend does not know makes the layer's own attention run."""
        names = (self.tokens_name,) if part == "ff" else self.attention_arguments
        given = dict(zip(names, args))
        given.update(kwargs)
        x = given.pop(self.tokens_name, None)
        context = given.get(self.context_name)
        own = None if len(args) <= len(names) else Reason.of("arguments", "more arguments than Accel knows")
        harmless = self.harmless.get(part, ())
        for name, value in given.items():
            if value is None or value is False or (isinstance(value, (int, float)) and value == 0) or name in harmless:
                continue
            if name == self.context_name:
                if part == "attn1" and value is not x:
                    own = Reason.of("context", "self-attention was given a context")
            elif name == self.mask_name:
                own = Reason.of("mask", "an attention mask was given")
            else:
                own = Reason.of("called_with", "the layer was called with {name!r}", name=name)

        def with_tokens(tokens: torch.Tensor, context: torch.Tensor | None = None) -> tuple[tuple, dict]:
            if context is not None:
                return (tokens,), given | {self.context_name: context}
            replaced = tuple(tokens if value is x else value for value in args)
            return replaced, {k: tokens if v is x else v for k, v in kwargs.items()}

        has_context = context is not None and context is not x
        return LayerCall(x, own, with_tokens, has_context, context if has_context else None)

    def texts_of(self, unet: nn.Module, args: tuple, kwargs: dict) -> tuple[torch.Tensor, ...]:
        """What a U-Net call is steered by: texts and whatever belongs to them, tensors [rows, ...]."""
        context = args[2] if len(args) > 2 else kwargs.get(self.context_name)
        return tensors_in(context, kwargs.get("y"))

    def marks_of(self, args: tuple, kwargs: dict) -> tuple[str, ...] | None:
        """The role (``cond`` | ``uncond``) of each equal chunk of a U-Net call's rows, where the call itself says so; None elsewhere."""
        return None

    def rows_obstacle(self, unet: nn.Module, args: tuple, kwargs: dict, count: int, by_host: bool) -> str | None:
        """Why the ``count`` rows of a U-Net call may not be cut (a clause), or None: all that takes part works row by row.

        by_host: a host told the rows; it knows what it put around the whole U-Net.
        """
        return known.class_obstacle(unet)

    def cut(self, unet: nn.Module, args: tuple, kwargs: dict, count: int, keep: Sequence[int]) -> tuple[tuple, dict]:
        """The arguments of a U-Net call of ``count`` rows with the rows ``keep`` alone."""
        return cut_rows((args, kwargs), count, keep)

    def obstacle(self, site: Site, part: str, ability: str) -> str | None:
        """Why ``ability`` (see `known`) cannot be had of a layer now (a clause), or None: whatever takes part in it is known.

        On LDM's and SGM's U-Nets a forward that others put there is the attention that was there, and takes the tokens that it is given.
        """
        layer, block = site.part(part), site.block
        if layer is None or block is None or ability == known.TOKENS:
            return None
        forwards = [(known.own_forward(layer), part)]
        if ability == known.SERVED:
            forwards += [(known.own_forward(block, name), "the block") for name in ("forward", "_forward")]
        for forward, place in forwards:
            reason = known.forward_obstacle(forward, ability, known.HOST_FORWARDS, place)
            if reason:
                return reason
        return self.plain_obstacle(layer) if ability == known.PLAIN else None

    def must_run(self, sites: Iterable[Site]) -> str | None:
        """Why a call that leaves ``sites`` out would miss something (a clause), or None: they only return."""
        return next(filter(None, (self.obstacle(site, part, known.SERVED) for site in sites for part in PARTS)), None)

    def plain_obstacle(self, attn: nn.Module) -> str | None:
        """Why ``attn`` cannot be computed in another way (a clause), or None."""
        missing = [n for n in ("to_q", "to_k", "to_v", "to_out", "heads") if getattr(attn, n, None) is None]
        return Reason.of("layer_lacks", "the attention layer has no {name}", name=missing[0]) if missing else None

    def upcasts(self, attn: nn.Module) -> bool:
        """Whether ``attn`` was built to compute its scores in float32."""
        return False

    @staticmethod
    def split_heads(attn: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        """[B, tokens, heads*d] -> [B, heads, tokens, d]."""
        return tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

    @staticmethod
    def scale_of(attn: nn.Module, head_dim: int) -> float:
        """The layer's softmax scale; xFormers classes carry none."""
        return float(getattr(attn, "scale", head_dim**-0.5))

    @staticmethod
    def project_out(attn: nn.Module, heads: torch.Tensor) -> torch.Tensor:
        """[B, heads, tokens, d] -> [B, tokens, C] through the layer's output modules, called as modules (LoRA, fp8)."""
        tokens = heads.transpose(1, 2).flatten(2)
        if isinstance(attn.to_out, nn.ModuleList):
            for module in attn.to_out:
                tokens = module(tokens)
            return tokens
        return attn.to_out(tokens)
