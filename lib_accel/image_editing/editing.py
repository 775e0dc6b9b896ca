"""`edit_images`: a picture and its edited versions from a diffusers pipeline, in one batch or a few."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from ..api import accelerated
from ..core.fields import SettingError
from ..core.report import Report
from ..engine.at_work import stood_aside
from ..prompt_to_prompt.edits import Edit, kind_of, mix
from ..prompt_to_prompt.local_blend import composite
from ..prompt_to_prompt.method import ImageEdit, PromptToPrompt
from ..prompt_to_prompt.tokens import PromptTokens
from ..prompt_to_prompt.windows import DEFAULT
from .batches import Batch, batches
from .inversion import Inverted, ddim, invert
from .options import EditOptions, checked_edits, checked_source
from .reach import check_call, checked_pipeline, refuse_without_effect
from .starting import checked_seed, checked_size, encode_picture, equal_noise, image_to_image
from .text import embeddings, tokens_for


@dataclass
class EditedPictures:
    """What `draw_edits` made, entry by entry: the source, then the edits in their order.

    pictures: PIL. latents: [channels, h, w] each. kinds: what every edit was (``source`` | ``replace`` | ``refine`` | ``reweight``).
    masks: [h, w] of 0 and 1, where local blend let the picture differ, None without. heat: word -> [pictures, h, w]. reports: one per
    batch.
    """

    pictures: list[Any]
    latents: list[torch.Tensor]
    kinds: list[str]
    masks: list[torch.Tensor | None]
    heat: dict[str | int, torch.Tensor] = field(default_factory=dict)
    reports: list[Report] = field(default_factory=list)


def edit_images(pipe: Any, source: str, edits: Sequence[Edit | str] | Edit | str, seed: int, **options: Any) -> list[Any]:
    """Pictures of ``source`` and of every edit of it, from the same noise, the edits held to the source's composition.

    pipe: a Stable Diffusion or SDXL pipeline of diffusers (text to image). source: the prompt. edits: edited prompts, or `Replace`,
    `Refine`, `Reweight`. seed: a whole number of any size; the source's picture is the one that ``pipe`` draws with it. options: see
    `EditOptions`. Returns PIL pictures, the source's first. SettingError and WordError, one sentence each, before anything is drawn.
    Warns with the report where some layers could not be edited. An accelerator at work on ``pipe`` stands aside meanwhile, and goes on
    afterwards; what is to act on the edits is among the options (``methods``).

        edit_images(pipe, "a cat on a mat", ["a dog on a mat", Reweight({"mat": -1})], seed=1, cross_replace=0.8, self_replace=0.4)

    Source: Prompt-to-Prompt Image Editing with Cross Attention Control (Hertz et al., arXiv 2208.01626).
    """
    made = draw_edits(pipe, source, edits, seed, **options)
    for sentence in dict.fromkeys(str(report) for report in made.reports if _kept_some(report)):
        warnings.warn(sentence, stacklevel=2)
    return made.pictures


def draw_edits(pipe: Any, source: str, edits: Sequence[Edit | str] | Edit | str, seed: int, **options: Any) -> EditedPictures:
    """`edit_images` with all that is known of the pictures."""
    return draw_part(pipe, source, edits, seed, list, **options)


def draw_part(
    pipe: Any, source: str, edits: Sequence[Edit | str] | Edit | str, seed: int, part: Callable[[list[Batch]], list[Batch]], **options: Any
) -> EditedPictures:
    """`draw_edits` for one of several processes that share the batches: ``part`` picks those to draw; entries of the others are None."""
    given = checked_edits(edits, options.get("edit", "auto"))
    return _EditingRun(checked_pipeline(pipe), checked_source(source), given, checked_seed(seed), EditOptions(**options)).run(part)


def _kept_some(report: Report) -> bool:
    """Whether layers that should have been edited were not."""
    return any(method["method"] == PromptToPrompt.__name__ and method["stood_down"] for method in report.as_dict()["methods"])


class _EditingRun:
    """One call of `draw_edits`."""

    def __init__(self, pipe: Any, source: str, edits: list[Edit], seed: int, options: EditOptions) -> None:
        self.pipe, self.source, self.edits, self.seed, self.options = pipe, source, edits, seed, options
        self.size = checked_size(pipe, options.width, options.height, options.image)
        self.prompts = [source if edit.prompt is None else edit.prompt for edit in edits]
        self.source_stream, *self.streams = tokens_for(pipe, [source, *self.prompts])
        texts = [self.source_stream, *self.streams, *tokens_for(pipe, options.negative_prompt)]
        # The source is in every batch, and in the inversion: everywhere with as many chunks, or it is another picture there.
        self.chunks = max(stream.chunks for stream in texts)
        self._check_texts()
        self._check_words()
        self.started = image_to_image(pipe) if options.strength is not None else None
        check_call(self.started or pipe, options.pipeline, options.inversion)
        # Whatever is wrong with one of the edits is said before anything is drawn.
        self.batches = batches(len(edits), options.pictures_at_once, options.source_latent == "shared")
        self.methods = [self._method(batch) for batch in self.batches]

    def run(self, part: Callable[[list[Batch]], list[Batch]]) -> EditedPictures:
        count = 1 + len(self.edits)
        kinds = ["source"] + [kind_of(self.source_stream, stream, edit) for stream, edit in zip(self.streams, self.edits)]
        made = EditedPictures([None] * count, [None] * count, kinds, [None] * count)
        drawn = part(self.batches)
        if not drawn:
            return made
        with stood_aside(self.pipe), ddim(self.pipe, self.options.inversion) if self.options.inversion else nullcontext():
            inverted = self._invert()
            for batch in drawn:
                self._draw(batch, self.methods[self.batches.index(batch)], inverted, made)
        made.heat = {word: made.heat[word] for word in self.options.heat_maps if word in made.heat}
        return made

    def _check_texts(self) -> None:
        """What the pipeline does not do to texts that are encoded here."""
        o = self.options
        given = [name for name in ("clip_skip", "negative_prompt_2") if o.pipeline.get(name)]
        if not given:
            return
        if o.inversion is not None or self.chunks > 1:
            raise SettingError(f"{given[0]} is {o.pipeline[given[0]]!r}; it goes with prompts of one chunk, and with no inversion.")

    def _check_words(self) -> None:
        """Every word with a window of its own, in a local blend or with a heat map must be in some prompt."""
        windows = self.options.cross_replace
        for word in windows if isinstance(windows, Mapping) else ():
            if word != DEFAULT and not any(stream.has(word) for stream in self.streams):
                self.streams[0].find(word)
        for word in self.options.heat_maps:
            if not any(stream.has(word) for stream in (self.source_stream, *self.streams)):
                self.source_stream.find(word)
        if self.options.local_blend is not None:
            self.options.local_blend.aligned([self.source_stream, *self.streams])

    def _method(self, batch: Batch) -> PromptToPrompt:
        o, edited = self.options, []
        for place in batch.places:
            edit = self.edits[place.number]
            mixing = mix(self.source_stream, self.streams[place.number], edit, o.cross_replace, o.variant, missing_ok=True)
            window = o.self_replace if edit.self_replace is None else edit.self_replace
            edited.append(ImageEdit(place.image, place.source, (mixing,), window))
        streams = self._streams(batch)
        return PromptToPrompt(
            tuple(edited),
            blend=o.local_blend.aligned(streams, strict=False) if o.local_blend else None,
            cross_layers=o.cross_layers,
            self_layers=o.self_layers,
            self_source=o.self_source,
            window_rule=o.window_rule,
            tokens=tuple(streams) if o.heat_maps else (),
        )

    def _streams(self, batch: Batch) -> list[PromptTokens]:
        """The prompt of every picture of the batch."""
        streams = [self.source_stream] * batch.images
        for place in batch.places:
            streams[place.image] = self.streams[place.number]
        return streams

    def _invert(self) -> Inverted | None:
        o = self.options
        if o.inversion is None:
            return None
        given, latents = self._embeddings([self.source]), encode_picture(self.pipe, o.image)
        return invert(self.pipe, o.inversion, latents, given, o.steps, o.guidance, self.size[::-1], o.pipeline)

    def _embeddings(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        scale = (self.options.pipeline.get("cross_attention_kwargs") or {}).get("scale")
        return embeddings(self.pipe, prompts, self.options.negative_prompt, scale, self.chunks)

    def _draw(self, batch: Batch, method: PromptToPrompt, inverted: Inverted | None, made: EditedPictures) -> None:
        o = self.options
        pipe, start = self._start(batch, inverted)
        given = self._texts(batch, inverted)
        with accelerated(pipe, method, *o.methods) as accelerator:
            runner = accelerator.running(PromptToPrompt)
            last: dict[str, torch.Tensor] = {}

            def after_step(pipe: Any, index: int, timestep: Any, tensors: dict) -> dict:
                refuse_without_effect(pipe, runner)
                latents = runner.blend(tensors["latents"])
                if batch.followers:
                    latents = latents.clone()
                    for follower, leader in batch.followers:
                        latents[follower] = latents[leader]
                last["latents"] = latents
                changed = {"latents": latents}
                if inverted is not None and inverted.negative and self._guided and index + 1 < len(inverted.negative):
                    texts = tensors["prompt_embeds"].clone()
                    texts[: batch.images] = inverted.negative[index + 1]
                    changed["prompt_embeds"] = texts
                return changed

            images = pipe(
                **given,
                **start,
                num_inference_steps=o.steps,
                guidance_scale=o.guidance,
                callback_on_step_end=after_step,
                callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
                **o.pipeline,
            ).images
            masks = runner.masks(tuple(last["latents"].shape[-2:]))
            # Another batch may have the others.
            words = [word for word in o.heat_maps if any(stream.has(word) for stream in self._streams(batch))]
            if words:
                self._take_heat(batch, accelerator.heat_maps(words), made)
        made.reports.append(accelerator.report())
        self._take(batch, images, last["latents"], masks, made)

    @property
    def _guided(self) -> bool:
        return self.options.guidance > 1 and getattr(self.pipe.unet.config, "time_cond_proj_dim", None) is None

    def _start(self, batch: Batch, inverted: Inverted | None) -> tuple[Any, dict[str, Any]]:
        """The pipeline to run, and its arguments about where to start."""
        o, (width, height) = self.options, self.size
        noise, generators = equal_noise(self.pipe, batch.images, width, height, self.seed)
        if self.started is not None:
            pipe = self.started
            latents = encode_picture(pipe, o.image).repeat(batch.images, 1, 1, 1)
            fresh = [torch.Generator().manual_seed(self.seed) for _ in generators]
            return pipe, {"image": latents, "strength": o.strength, "generator": fresh}
        if inverted is not None:
            noise = inverted.noise.repeat(batch.images, 1, 1, 1)
        return self.pipe, {"latents": noise, "generator": generators, "width": width, "height": height}

    def _texts(self, batch: Batch, inverted: Inverted | None) -> dict[str, Any]:
        """The pipeline's arguments about its texts."""
        o = self.options
        prompts = [stream.text for stream in self._streams(batch)]
        own_negative = inverted is not None and inverted.negative is not None
        if not own_negative and self.chunks == 1:
            # Without one SDXL takes zeros for it, which an empty text is not.
            return {"prompt": prompts, "negative_prompt": [o.negative_prompt] * len(prompts) if o.negative_prompt else None}
        given = self._embeddings(prompts)
        if own_negative:
            given["negative_prompt_embeds"] = inverted.negative[0].expand(len(prompts), -1, -1)
        return given

    def _take(self, batch: Batch, images: list[Any], latents: torch.Tensor, masks: dict[int, torch.Tensor], made: EditedPictures) -> None:
        if made.pictures[0] is None:
            made.pictures[0], made.latents[0] = images[0], latents[0]
        base = self.options.image if self.options.image is not None else images[0]
        for place in batch.places:
            mask, picture = masks.get(place.image), images[place.image]
            if self.options.composite and mask is not None:
                picture = composite(picture, base, mask)
            at = 1 + place.number
            made.pictures[at], made.latents[at], made.masks[at] = picture, latents[place.image], mask

    def _take_heat(self, batch: Batch, maps: dict[str | int, torch.Tensor], made: EditedPictures) -> None:
        for word, heat in maps.items():
            kept = made.heat.setdefault(word, heat.new_zeros(1 + len(self.edits), *heat.shape[1:]))
            kept[0] = heat[0]
            for place in batch.places:
                kept[1 + place.number] = heat[place.image]
