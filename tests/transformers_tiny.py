"""Every pipeline class of the installed diffusers that draws with a transformer, built tiny from configs where that can be done.

Classes are discovered in diffusers' sources; their parts and the arguments of their calls come from the names of settings and arguments. A
class is in where a plain call of what was built returns latents.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pathlib
import re
from typing import Any

import diffusers
import torch
from transformers_calls import STEPS, Way, call_of, ways
from transformers_parts import TOKENS, WIDTH, Checker, Encoder, Tokenizer, Vae, named, scheduler
from transformers_small import HEAD, arguments, misfit_of, tiny

from lib_accel.backends import backend_for
from lib_accel.backends.transformer import TransformerBackend

__all__ = ["STEPS", "TOKENS", "WIDTH", "Built", "build", "found", "tiny"]
# Numbers in the latents of one call; pixels to a latent where a pipeline insists on large pictures; steps that show that a call works.
LARGEST, COARSE, TRIED = 60_000, 64, 2
# Parts that may be left out, and are not.
OPTIONAL = ("transformer", "pag_applied_layers", "safety_checker", "image_encoder", "image_processor")
# The width of a head that can be cut into three even parts.
WIDER = 24


class TooLargeError(Exception):
    pass


@functools.cache
def found() -> dict[str, str]:
    """Class -> module of every pipeline whose ``__init__`` asks for a transformer. None is imported, nor parsed, which takes seconds."""
    root = pathlib.Path(diffusers.__file__).parent / "pipelines"
    classes = {}
    for file in sorted(root.rglob("pipeline_*.py")):
        for body in re.split(r"^class ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            asked = re.search(r"^    def __init__\((.*?)\)(?: -> [^\n]*)?:\n", body, flags=re.MULTILINE | re.DOTALL)
            if asked and re.search(r"\btransformer\s*[:,=]", asked[1]):
                name = re.match(r"\w+", body)[0]
                classes[name] = ".".join(("diffusers.pipelines", *file.relative_to(root).with_suffix("").parts))
    return classes


class Built:
    """A pipeline of one transformer class, and the arguments of its calls."""

    def __init__(self, pipe: Any, given: dict[str, Any]) -> None:
        self.pipe, self.given, self.model = pipe, given, pipe.transformer

    def draw(self, **more: Any) -> torch.Tensor:
        """The latents that a call returns."""
        torch.manual_seed(4)
        asked = arguments(type(self.pipe).__call__)
        seeded = {"generator": torch.Generator().manual_seed(3)} if "generator" in asked else {}
        out = self.pipe(**{**self.given, **seeded, **more})
        out = out if isinstance(out, (tuple, list)) else next(iter(out.values()))
        while isinstance(out, (tuple, list)):
            out = out[0]
        return torch.as_tensor(out)


def build(name: str) -> tuple[Built | None, str]:
    """The pipeline class ``name``; None with the first reason where it cannot be built or its plain calls fail."""
    why, seen = "", []
    try:
        kind = getattr(importlib.import_module(found()[name]), name)
        todo = ways(kind)
    except Exception as error:
        return None, _said(error)
    while todo:
        way = todo.pop(0)
        try:
            return _tried(kind, way), ""
        except TooLargeError as error:
            why = why or str(error)
            if way.factor == COARSE:
                break
            todo = [one._replace(factor=COARSE) for one in (way, *todo)]
        except Exception as error:
            why = why or _said(error)
            seen.append(repr(error))
            if type(error) in (ImportError, LookupError):
                break
            if isinstance(error, AssertionError) and not str(error):
                # What rotary embeddings ask of a head.
                todo = [way._replace(head=WIDER)] if way.head < WIDER else []
            if "expected 4, got 3" in str(error) and not way.layers:
                todo = [way._replace(layers=True), *todo]
            if "'NoneType'" in str(error) and way.bare:
                # A part that was left out is asked for something.
                todo, seen = [one._replace(bare=False) for one in (way, *todo)], []
            if isinstance(error, UnboundLocalError) and not way.decoded:
                # What it does with latents that are not to be decoded fails.
                todo.append(way._replace(decoded=True))
            if seen.count(repr(error)) > 2:
                # Pictures and channels do not help it.
                todo = [one for one in todo if one.words]
    return None, why


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


def _tried(kind: type, way: Way) -> Built:
    """``kind`` built in this way. A setting of a model with which its layers do not fit together is put right, each once.

    Raises:
        Exception: what the pipeline's plain call raises. TooLargeError: its calls are not small.
    """
    fixed: dict[str, dict[str, int]] = {}
    while True:
        parts = {name: _part(name, one, kind, way, fixed) for name, one in arguments(kind.__init__).items() if _is_needed(name, one)}
        if backend_for(parts["transformer"]).name != "transformer":
            raise LookupError(f"{type(parts['transformer']).__name__} is a model of another kind")
        try:
            built = Built(_pipeline(kind, parts, way), call_of(kind, way))
            guard = built.model.register_forward_pre_hook(_is_cheap, with_kwargs=True)
            latents = built.draw(**({"num_inference_steps": TRIED} if "num_inference_steps" in built.given else {}))
            guard.remove()
            if not latents.isfinite().all():
                raise ValueError("its plain latents are not finite")
            return built
        except RuntimeError as error:
            misfit = misfit_of(error, parts)
            if misfit is None or misfit[1] in fixed.get(misfit[0], {}):
                raise
            # Another decoder may bring models what they take by default.
            fixed = fixed if misfit[0] != "vae" else {}
            fixed.setdefault(misfit[0], {})[misfit[1]] = misfit[2]


def _is_cheap(model: Any, args: tuple, kwargs: dict) -> None:
    sample = TransformerBackend().sample_of(args, kwargs)
    if sample.numel() > LARGEST:
        raise TooLargeError(f"its calls are not small: {tuple(sample.shape)}")


def _is_needed(name: str, argument: inspect.Parameter) -> bool:
    return argument.default is inspect.Parameter.empty or name in OPTIONAL


def _pipeline(kind: type, parts: dict[str, Any], way: Way) -> Any:
    pipe = kind(**parts)
    pipe.set_progress_bar_config(disable=True)
    if hasattr(pipe, "resolutions"):
        # Those that it draws in.
        pipe.resolutions = [(way.side, way.side)]
    if hasattr(pipe, "default_sample_size"):
        pipe.default_sample_size = way.side // way.factor
    if way.words and hasattr(pipe, "_encode_prompt"):
        pipe._encode_prompt = lambda prompt, *_, **__: Encoder()(Tokenizer()(prompt, return_tensors="pt").input_ids).last_hidden_state
    return pipe


def _part(name: str, argument: inspect.Parameter, kind: type, way: Way, fixed: dict[str, dict[str, int]]) -> Any:
    words = str(getattr(argument.annotation, "__name__", None) or argument.annotation)
    if name == "scheduler":
        return scheduler(words)
    if name.startswith("transformer"):
        head = {} if way.head == HEAD else {"attention_head_dim": way.head}
        return tiny(named(words, kind), way.channels, head | fixed.get(name, {}))
    if name == "controlnet":
        return tiny(named(words, kind), fixed=fixed.get(name))
    if name == "vae":
        return Vae(way.factor, **fixed.get(name, {}))
    if name == "guider":
        return diffusers.ClassifierFreeGuidance()
    if name == "safety_checker":
        # Those that look at pictures are asked only with what prepares them.
        return None if "feature_extractor" in arguments(kind.__init__) else Checker()
    if any(word in name for word in ("tokenizer", "processor", "extractor")):
        return None if way.bare else Tokenizer()
    if name.startswith(("text_encoder", "image_encoder", "siglip")):
        return None if way.bare else Encoder()
    return "blocks.0" if name == "pag_applied_layers" else None
