"""What a pipeline with a transformer is called with: a small size, texts as embeddings, pictures where it takes some."""

from __future__ import annotations

import inspect
import re
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers_parts import TOKENS, WIDTH
from transformers_small import HEAD, arguments

STEPS, FRAMES, MANY_FRAMES = 8, 5, 21
# Those of a single picture, of several, of videos; and masks.
PICTURES = ("image", "control_image", "cond_image", "ref_image")
SEVERAL = ("images", "input_images")
VIDEOS = ("video", "control_video", "pose_video", "face_video")
MASKS = ("mask_image", "mask", "control_mask")
# A text, also where it has to be an edit in JSON.
WORDS = '{"edit_instruction": "a photo"}'
# Annotations of texts that come in a list.
LISTED = re.compile(r"(typing\.)?((optional|union)\[)?(typing\.)?list\[")
TEXTS = ("prompt_embeds", "attention_mask", "cu_seqlens")


class Way(NamedTuple):
    """A way to build and call a pipeline.

    pictures: whether those are given that may be left out: ``all`` | ``first`` | ``none``. booleans: what masks of texts are made of.
    channels: channels that the transformer takes, of its default. words: texts are given as such. factor: pixels to a latent. frames: of a
    video. head: width of an attention head. layers: whether texts come from several layers of an encoder. decoded: whether pictures are
    asked for, not latents. bare: whether encoders are left out.
    """

    pictures: str = "none"
    booleans: bool = False
    channels: float = 1
    words: bool = False
    factor: int = 8
    frames: int = FRAMES
    head: int = HEAD
    layers: bool = False
    decoded: bool = False
    bare: bool = True

    @property
    def side(self) -> int:
        """Pixels, along either side: 8 latents."""
        return 8 * self.factor


def ways(kind: type) -> list[Way]:
    """Those that differ for the pipeline class ``kind``, the likeliest first."""
    asked = arguments(kind.__call__)
    left = [name for name, one in asked.items() if name in PICTURES + SEVERAL + VIDEOS and one.default is not inspect.Parameter.empty]
    pictures = ("all", "first", "none") if len(left) > 1 else ("all", "none") if left else ("none",)
    masks = any(name.endswith(("attention_mask", "embeds_mask")) for name in asked)
    found = [Way(one, booleans) for one in pictures for booleans in ((False, True) if masks else (False,))]
    found += [Way(pictures[0], channels=2)]
    found += [Way(pictures[0], channels=2, frames=MANY_FRAMES)] if "num_frames" in asked else []
    return [*found, Way(pictures[0], words=True, bare=False)]


def call_of(kind: type, way: Way) -> dict[str, Any]:
    """The arguments of a small call of the pipeline class ``kind``."""
    size = {"height": way.side, "width": way.side, "max_area": way.side**2}
    size |= dict.fromkeys(("num_frames", "frames", "video_length"), way.frames)
    plain = {"num_inference_steps": STEPS, "output_type": "pt" if way.decoded else "latent", "strength": 1.0, "max_sequence_length": TOKENS}
    plain |= {"use_resolution_binning": False, "negative_prompt": None, "class_labels": [1], "enable_prompt_rewrite": False}
    plain |= size
    asked = arguments(kind.__call__)
    embeddings = any(name.startswith("prompt_embeds") for name in asked) and not way.words
    given: dict[str, Any] = {}
    for name, argument in asked.items():
        needed = argument.default is inspect.Parameter.empty
        if name in plain:
            given[name] = plain[name]
        elif name == "prompt" and (needed or not embeddings):
            given[name] = None if embeddings else WORDS
        elif any(word in name for word in TEXTS):
            if embeddings:
                given[name] = _text(name, argument, way)
        elif needed or way.pictures != "none":
            value = _picture(name, way)
            first = not any(one in given for one in PICTURES + SEVERAL + VIDEOS)
            if value is not None and (needed or way.pictures == "all" or first or name in MASKS):
                given[name] = value
    return given


def _picture(name: str, way: Way) -> Any:
    side = way.side
    if name in MASKS:
        mask = Image.new("L", (side, side))
        mask.paste(255, (0, 0, side // 2, side))
        return mask
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))
    if name in PICTURES:
        return picture
    return [picture] if name in SEVERAL else [picture] * way.frames if name in VIDEOS else None


def _text(name: str, argument: inspect.Parameter, way: Way) -> Any:
    generator = torch.Generator().manual_seed(len(name) + (100 if "negative" in name else 0))
    if "mask" in name:
        return torch.ones(1, TOKENS, dtype=torch.bool if way.booleans else torch.long)
    if "cu_seqlens" in name:
        return torch.tensor([0, TOKENS], dtype=torch.int32)
    if "pooled" in name or name.endswith("clip"):
        return torch.randn(1, WIDTH, generator=generator)
    if "llama" in name:
        # One for each layer.
        return torch.randn(2, 1, TOKENS, WIDTH, generator=generator)
    text = torch.randn(1, TOKENS, WIDTH, generator=generator)
    if way.layers:
        return text.unsqueeze(2)
    return [text[0]] if LISTED.match(str(argument.annotation).lower()) else text
