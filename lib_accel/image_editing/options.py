"""What `edit_images` can be told, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.fields import SettingError, check, setting
from ..prompt_to_prompt.edits import KINDS, Edit, as_edit
from ..prompt_to_prompt.local_blend import LocalBlend
from ..prompt_to_prompt.windows import RULES, window_of, windows_of
from .inversion import INVERSIONS

VARIANTS = ("accel", "published", "bloc97")
# Arguments of a pipeline's call that `edit_images` gives itself.
OWN = (
    *("prompt", "negative_prompt", "prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    *("prompt_2", "num_inference_steps", "guidance_scale", "strength", "latents", "generator", "width", "height", "num_images_per_prompt"),
    *("callback_on_step_end", "callback_on_step_end_tensor_inputs", "output_type", "return_dict"),
)


@dataclass(frozen=True)
class EditOptions:
    """Options of `edit_images`. SettingError, a sentence, for each that cannot be.

    edit: kind of edits given as plain prompts. cross_replace: window of cross-attention, a fraction b for (0, b), a pair, or windows by
    word of the edited prompts with ``default_`` for the rest. self_replace: window of self-attention. cross_layers, self_layers,
    self_source, window_rule: see `PromptToPrompt`. local_blend: a `LocalBlend`. composite: outside the feathered mask of the local blend
    pictures get the source's pixels. variant: rules of alignment, ``accel``, ``published`` or ``bloc97``; see `edits.mix`. source_latent:
    ``own``, or ``shared``: the source is seen on the edited picture's latents (as in CrossAttentionControl), two rows more per edit.
    negative_prompt, steps, guidance (scale), width, height: as pipelines have them. image: a real picture (PIL, RGB) to start from, with
    strength (0 to 1, how much of the pass is run) or inversion: ``ddim``, ``negative_prompt`` or ``null_text``.
    pictures_at_once: pictures of one U-Net batch, the source among them; more edits run in more batches. methods: further methods.
    heat_maps: words whose maps are kept. pipeline: further arguments of the pipeline's call, none of `OWN`.
    """

    edit: str = setting("auto", "choice", "Edit", "", choices=KINDS)
    cross_replace: Any = 0.8
    self_replace: Any = 0.4
    cross_layers: str = "all"
    self_layers: str = "1/4"
    self_source: str | None = "map"
    local_blend: LocalBlend | None = None
    composite: bool = setting(False, "flag", "Composite", "")
    variant: str = setting("accel", "choice", "Variant", "", choices=VARIANTS)
    window_rule: str = setting("fraction", "choice", "Window rule", "", choices=RULES)
    source_latent: str = setting("own", "choice", "Source latent", "", choices=("own", "shared"))
    negative_prompt: str = setting("", "text", "Negative prompt", "")
    steps: int = setting(50, "integer", "Steps", "", 1, 1000)
    guidance: float = setting(7.5, "number", "Guidance", "", 0, 100)
    width: int | None = None
    height: int | None = None
    image: Any = None
    strength: float | None = setting(None, "number", "Strength", "", 0, 1, above_low=True, optional=True)
    inversion: str | None = setting(None, "choice", "Inversion", "", choices=(*INVERSIONS, None))
    pictures_at_once: int = setting(4, "integer", "Pictures at once", "", 2, 1024)
    methods: tuple[Any, ...] = ()
    heat_maps: tuple[str | int, ...] = ()
    pipeline: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self)
        windows_of("cross_replace", self.cross_replace)
        window_of("self_replace", self.self_replace)
        if not isinstance(self.methods, (tuple, list)):
            raise SettingError(f"methods is {self.methods!r}; it must be a tuple of settings objects such as TokenMerging(ratio=0.5).")
        object.__setattr__(self, "heat_maps", _words("heat_maps", self.heat_maps))
        own = sorted(set(self.pipeline) & set(OWN)) if isinstance(self.pipeline, Mapping) else ["?"]
        if own:
            raise SettingError(f"pipeline is {self.pipeline!r}; it must be further arguments by name, none of {', '.join(OWN)}.")
        if self.local_blend is not None and not isinstance(self.local_blend, LocalBlend):
            raise SettingError(f"local_blend is {self.local_blend!r}; it must be a LocalBlend, or None.")
        if self.composite and self.local_blend is None:
            raise SettingError("composite is True; it needs a local_blend, whose mask it pastes by.")
        if self.image is None and (self.strength is not None or self.inversion is not None):
            name = "strength" if self.strength is not None else "inversion"
            raise SettingError(f"{name} is {getattr(self, name)!r}; it needs an image to start from.")
        if self.image is not None and (self.strength is None) == (self.inversion is None):
            raise SettingError("image is given; it needs either strength or inversion.")
        if self.strength is not None and int(self.steps * self.strength) < 1:
            raise SettingError(
                f"strength is {self.strength:g}; with {self.steps} steps it must be {1 / self.steps:.3g} or more, to run one."
            )
        if self.source_latent == "shared":
            if self.local_blend is not None:
                raise SettingError("source_latent is 'shared'; there is no source picture to blend with then, so local_blend must be None.")
            if self.pictures_at_once < 3:
                raise SettingError(f"pictures_at_once is {self.pictures_at_once}; with source_latent='shared' it must be 3 or more.")


def _words(name: str, value: Any) -> tuple[str | int, ...]:
    """Words, or numbers of words; one alone may stand for itself."""
    words = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if any(isinstance(word, bool) or not isinstance(word, (str, int)) for word in words):
        raise SettingError(f"{name} is {value!r}; it must be words, or numbers of words.")
    return words


def checked_source(source: Any) -> str:
    """The source prompt. SettingError."""
    if not isinstance(source, str):
        raise SettingError(f"source is {source!r}; it must be a text, the prompt of the picture that is edited.")
    return source


def checked_edits(edits: Any, kind: str) -> list[Edit]:
    """``edits`` as a list, plain prompts as edits of ``kind``; at least one. SettingError."""
    given = [edits] if isinstance(edits, (str, Edit)) else edits
    if not isinstance(given, Sequence) or not given:
        raise SettingError(f"edits is {edits!r}; it must be one edit (a prompt, Replace, Refine, Reweight) or more.")
    return [Edit(one, kind) if isinstance(one, str) else as_edit(one) for one in given]
