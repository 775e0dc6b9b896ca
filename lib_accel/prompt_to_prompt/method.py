"""Prompt-to-Prompt: pictures of edited prompts take attention from the picture of the source prompt, in the same batch.

Source: Prompt-to-Prompt Image Editing with Cross Attention Control (Hertz et al., arXiv 2208.01626); ``keys_values`` is mutual
self-attention (MasaCtrl, Cao et al., arXiv 2304.08465).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.fields import SettingError, check, setting
from ..core.method import TOKENS, Declaration, Kind, Method, Schedule
from ..core.rows import Layout, Row
from ..core.schedule import Step, Window
from .edits import Edit, Mixing, mix
from .layers import Layers
from .local_blend import AlignedBlend, LocalBlend
from .runner import PromptToPromptRunner
from .segmenting import streams
from .tokens import PromptTokens
from .windows import RULES, acts, window_of

SELF_SOURCES = ("map", "value", "keys_values", None)


@dataclass(frozen=True, eq=False)
class ImageEdit:
    """How one picture of a batch is edited from another. SettingError when it cannot be.

    image, source: their numbers in the batch (`Row.image`), from 0. mixings: for every AND part of the edited prompt how its
    cross-attention is made from that of the source's part of the same number; None: it keeps its own. A prompt without AND has one part.
    self_replace: window in which self-attention is taken from the source: a fraction, or (start, end).
    """

    image: int
    source: int
    mixings: tuple[Mixing | None, ...]
    self_replace: float | Window = 0.4

    def __post_init__(self) -> None:
        if self.image == self.source:
            raise SettingError(f"ImageEdit.source is {self.source}; it must be another picture than the edited one.")
        object.__setattr__(self, "mixings", tuple(self.mixings))
        object.__setattr__(self, "self_replace", window_of("self_replace", self.self_replace))


@dataclass(frozen=True, eq=False)
class PromptToPrompt(Method):
    """Settings of an edited batch. SettingError when one cannot be.

    Only rows with role ``cond`` of the edited pictures change; sources, unconditional rows and other pictures stay as they are. An
    edited row must come in the same U-Net call as its source's, or in a later one of the same step.

    edits: one `ImageEdit` for every edited picture, at least one. blend: words whose maps are summed for `PromptToPromptRunner.masks`, or
    None.
    cross_layers, self_layers: blocks on which either acts; see `Layers`. Published: all, and 256 (tokens, at 512x512), which
    is a quarter of the latents' side.
    self_source: what self-attention takes from the source: ``map`` (its queries and keys, as published), ``value``, ``keys_values``,
    or None for nothing. window_rule: how windows are counted, ``fraction``, ``published`` or ``noise``; see `prompt_to_prompt.windows`.
    tokens: prompts by image; with them the maps of all words are kept for `Accelerator.heat_maps`, as edited. every_step: each layer's and
    step's, too.
    """

    declaration = Declaration(
        acts_on=TOKENS,
        kinds=(Kind("edited", "attention of the source", "#4a90a4"),),
        word="edit",
        check_rows=Layout([Row("cond", 0), Row("cond", 1)]),
    )

    edits: tuple[ImageEdit, ...]
    blend: AlignedBlend | None = None
    cross_layers: str = setting("all", "text", "Cross-attention layers", "fewer: the new words have more freedom")
    self_layers: str = setting("1/4", "text", "Self-attention layers", "finer layers too: shapes stay closer to the source's")
    self_source: str | None = setting("map", "choice", "Self-attention from", "map: the layout; value: the texture", choices=SELF_SOURCES)
    window_rule: str = setting("fraction", "choice", "Window rule", "published: as in the released code", choices=RULES)
    tokens: tuple[PromptTokens, ...] = ()
    every_step: bool = False

    def __post_init__(self) -> None:
        given = self.edits
        edits = tuple(given) if isinstance(given, (tuple, list)) else ()
        object.__setattr__(self, "edits", edits)
        object.__setattr__(self, "tokens", tuple(self.tokens))
        if not edits or not all(isinstance(edit, ImageEdit) for edit in edits):
            raise SettingError(f"PromptToPrompt.edits is {given!r}; it must be one ImageEdit or more.")
        images = [edit.image for edit in edits]
        if len(set(images)) < len(images) or {edit.source for edit in edits} & set(images):
            raise SettingError(f"PromptToPrompt.edits edit the pictures {images}; every one once, and no source of another.")
        if self.blend is not None and not isinstance(self.blend, AlignedBlend):
            raise SettingError(f"PromptToPrompt.blend is {self.blend!r}; it must be an AlignedBlend (see LocalBlend.aligned), or None.")
        check(self)
        Layers("PromptToPrompt.cross_layers", self.cross_layers)
        Layers("PromptToPrompt.self_layers", self.self_layers)

    def runner(self) -> PromptToPromptRunner:
        return PromptToPromptRunner(self)

    def schedule(self, steps: int, scale: float | None = None, sampler: str = "", run: Sequence[int] | None = None) -> Schedule:
        told = [Step(index, steps, index / steps, "schedule") for index in (range(steps) if run is None else run)]
        at_work = tuple((self.edits_text(step), self.edits_self(step)) for step in told)
        return Schedule(tuple(("edited",) if any(parts) else () for parts in at_work), at_work)

    def edits_text(self, step: Step) -> bool:
        """Whether any cross-attention is edited at ``step``."""
        mixings = (mixing for edit in self.edits for mixing in edit.mixings)
        return any(mixing is not None and mixing.edits_at(step, self.window_rule) for mixing in mixings)

    def edits_self(self, step: Step, edit: ImageEdit | None = None) -> bool:
        """Whether self-attention is taken from the source at ``step``: of ``edit``'s picture, or of any."""
        edits = self.edits if edit is None else (edit,)
        return self.self_source is not None and any(acts(one.self_replace, step, self.window_rule, cross=False) for one in edits)

    @classmethod
    def example(cls) -> PromptToPrompt:
        return cls.worded()(cross_replace=1.0, self_replace=1.0, self_layers="all").method()

    @classmethod
    def worded(cls) -> type:
        return EditProbe


@dataclass(frozen=True)
class EditProbe:
    """An edited batch made up to be timed, checked and tested, as `edit_images` builds it. Its first picture is the source of the others.

    pictures: how many there are, from 2; a guided one takes two rows.
    kind, cross_replace, self_replace, self_layers, self_source: as `lib_accel.edit_images` has them, and its defaults. blend: whether the
    maps of a local blend are summed.
    """

    pictures: int = setting(2, "integer", "Pictures", "of a batch", 2, 1024)
    kind: str = "replace"
    cross_replace: Any = 0.8
    self_replace: Any = 0.4
    self_layers: str = "1/4"
    self_source: str = "map"
    blend: bool = setting(False, "flag", "Blend", "sums the maps of a local blend")

    def __post_init__(self) -> None:
        check(self)

    def method(self) -> PromptToPrompt:
        """The settings object of such a batch."""
        source, edited = streams(*(f"a photo of a {word} on a wooden table at noon" for word in ("squirrel", "lion")))
        mixing = mix(source, edited, Edit(kind=self.kind), self.cross_replace)
        edits = [ImageEdit(image, 0, (mixing,), self.self_replace) for image in range(1, self.pictures)]
        blend = LocalBlend("squirrel", "lion").aligned([source, *[edited] * (self.pictures - 1)]) if self.blend else None
        return PromptToPrompt(tuple(edits), blend, self_layers=self.self_layers, self_source=self.self_source)
