"""Everything that can be wrong with a job of the script, told before anything is drawn; and what is left of it, ready to draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...core.fields import SettingError
from ...prompt_to_prompt import Edit, LocalBlend, PromptTokens, mix
from ...prompt_to_prompt.layers import Layers
from ..host import facts, requests
from . import controls, grid, host_text, values
from .controls import TITLE, WEIGHT, FormValues
from .grid import Cell, Plan
from .lines import Line, parse_lines

EXAMPLES = "a whole new prompt; cat -> dog; + a red hat; smiling*1.8"


@dataclass(frozen=True)
class Edits:
    """What is edited. source: the prompt. prompts: the edited one of every line, as the host is given it. full_source, full_prompts: the
    same with the job's styles. streams: the tokens of the source and of every line's prompt. padding: what makes each of them as long as
    the longest, see `host_text.padded`."""

    settings: FormValues
    source: str
    lines: tuple[Line, ...]
    prompts: tuple[str, ...]
    full_source: str = ""
    full_prompts: tuple[str, ...] = ()
    streams: tuple[PromptTokens, ...] = ()
    padding: tuple[str, ...] = ()

    @property
    def unstyled(self) -> bool:
        """Whether the lines make the same prompts of the full source as the job drew."""
        made = (_prompt_or_none(line, self.full_source) for line in self.lines)
        return all(prompt == full for prompt, full in zip(made, self.full_prompts))

    def told(self, place: int, weights: Mapping[str, float], alone: bool = False) -> str:
        """The line in that place with other weights, as it makes the prompt that was drawn of the full source. alone: without the other
        lines, of which a longer one may have had both padded."""
        line, full = self.lines[place], self.full_prompts[place]
        if alone and self.padding and self.padding[0] and self.padding[1 + place]:
            return line.literally(full + self.padding[1 + place], weights)
        return line.weighing(weights) if _prompt_or_none(line, self.full_source) == full else line.literally(full, weights)

    def told_blend(self, place: int | None = None) -> str:
        """The blend words for all lines or for one alone, with those of swaps that are not told of there."""
        places = range(len(self.lines)) if place is None else [place]
        alone = parse_lines("\n".join(self.told(at, self.lines[at].weights, place is not None) for at in places))
        streams = [self.streams[1 + at] for at in places]
        whole, left = ({word for word in self._blend_words(lines)[1] if any(s.has(word) for s in streams)} for lines in (self.lines, alone))
        if whole == left:
            return self.settings["blend"]
        source, edited = self._blend_words(self.lines)
        return f"{', '.join(source)} : {', '.join(dict.fromkeys(edited))}"

    def edit_of(self, cell: Cell) -> Edit:
        """The edit of a cell, for `mix`."""
        return Edit(None, self.settings["kind"], cell.weights_on(self.lines[cell.line].weights))

    def local_blend(self, threshold: float) -> LocalBlend | None:
        """The local blend, if words for it are set. threshold: of the words that may change and of those that must not."""
        s = self.settings
        source, edited = self._blend_words(self.lines)
        if not source:
            return None
        return LocalBlend(source, edited, values.words(s["subtract"]), threshold, threshold, s["start"])

    def _blend_words(self, lines: Sequence[Line]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        source, edited = values.blend_words(f"{TITLE}: Blend words", self.settings["blend"])
        if source and not edited:
            # Words that were swapped stand for those they were swapped for.
            whole = {word.casefold() for word in source}
            swaps = [tuple(map(host_text.unmarked, swap)) for line in lines for swap in line.swaps]
            edited = source + tuple(new for old, new in swaps if new and old.casefold() in whole)
        return source, edited

    def heat_words(self) -> tuple[str, ...]:
        return values.words(self.settings["heat"])


def prepared(p: Any, args: tuple) -> tuple[Edits, Plan]:
    """The job of ``p`` with the script's ``args``. SettingError, a sentence, for whatever cannot be drawn as asked."""
    settings = controls.read(args, requests.is_one(p))
    lines = parse_lines(settings["edits"])
    if not lines:
        raise SettingError(f"{TITLE} has no edit; write one per line, such as {EXAMPLES.replace('; ', ' | ')}.")
    with facts.overridden(p):
        _check_job(p)
        styles, seeds = getattr(p, "styles", None), max(1, int(p.n_iter)) * max(1, int(p.batch_size))
        edits, plan = checked_form(settings, lines, p.prompt, seeds, lambda prompt: stream_of(p.sd_model, prompt, styles), styles)
        texts = [stream.text for stream in edits.streams]
        padding = tuple(whole[len(text) :] for text, whole in zip(texts, host_text.padded(texts, p.sd_model)))
    return replace(edits, padding=padding), plan


def checked_form(
    settings: FormValues, lines: Sequence[Line], prompt: str, seeds: int, stream: Callable[[str], PromptTokens], styles: Any = None
) -> tuple[Edits, Plan]:
    """What the script's settings make of a prompt. SettingError, a sentence, for what cannot be drawn whatever the job.

    seeds: how many the host's batch count and size ask for. stream: prompt -> its tokens. styles: of the job.
    """
    for name in ("cross_layers", "self_layers"):
        Layers(f"{TITLE}: {controls.CONTROLS[name].label}", settings[name])
    values.windows(f"{TITLE}: {controls.CROSS}", settings["cross"])
    values.window(f"{TITLE}: {controls.SELF}", settings["self"])
    source = host_text.without_comments(prompt)
    prompts = tuple(prompt_of(line, source) for line in lines)
    full_source, *full_prompts = (host_text.as_drawn(text, styles) for text in (source, *prompts))
    edits = Edits(settings, source, tuple(lines), prompts, full_source, tuple(full_prompts))
    plan = grid.plan(settings, lines, seeds)
    return replace(edits, streams=_check_words(stream, edits, plan)), plan


def stream_of(sd_model: Any, prompt: str, styles: Any = None) -> PromptTokens:
    """The tokens of a prompt as it is given to the host. SettingError where it cannot be edited."""
    styled = host_text.as_drawn(prompt, styles)
    refusal = host_text.refused(styled)
    if refusal:
        raise SettingError(f"{styled[:200]!r}: {refusal}.")
    return host_text.tokens_of(sd_model, host_text.without_tags(styled))


def _check_job(p: Any) -> None:
    """What concerns no prompt."""
    if not isinstance(p.prompt, str):
        raise SettingError(f"{TITLE} edits one prompt; prompt is a list of {len(p.prompt)}.")
    # The Batch tab gives the same picture as often as a batch has pictures.
    if len({id(picture) for picture in getattr(p, "init_images", None) or ()}) > 1:
        raise SettingError(f"{TITLE} starts from one picture; there are {len(p.init_images)}.")
    if getattr(p, "firstpass_image", None) is not None:
        raise SettingError(f"{TITLE} draws new pictures and cannot upscale one from the gallery; set Script to None for that.")
    own = getattr(p, "hr_prompt", None)
    if getattr(p, "enable_hr", False) and own and own != p.prompt:
        raise SettingError(f"{TITLE} needs an empty Hires prompt: the hires pass goes by the edited prompts.")
    obstacle = facts.obstacle(p)
    passes = (False, True) if getattr(p, "enable_hr", False) else (False,)
    ratio_of = getattr(p, "get_token_merging_ratio", lambda for_hr: 0)
    if obstacle is None and (facts.merges_tokens(p) or any(ratio_of(for_hr=hires) > 0 for hires in passes)):
        obstacle = facts.TOKEN_MERGING
    if obstacle:
        raise SettingError(f"{TITLE} can change nothing: {obstacle.values.get('why', obstacle)}.")
    other = "sd_model_checkpoint" in (getattr(p, "override_settings", None) or {})
    if not other:
        check_model(facts.unet_of(p))


def check_model(unet: Any) -> None:
    """SettingError for a U-Net or transformer in which nothing can be edited."""
    if not facts.has_layers(unet):
        sentence = "this model has no transformer blocks of a kind that it knows. It works with SD1.x, SD2.x and SDXL"
        raise SettingError(f"{TITLE} can change nothing: {sentence}.")


def prompt_of(line: Line, source: str) -> str:
    """The edited prompt of ``line``, without comments, with the source's tags where it has none: one batch has one set of LoRAs."""
    prompt = host_text.without_comments(line.applied(source))
    own, tags = host_text.tags_of(prompt), host_text.tags_of(source)
    if sorted(own) == sorted(tags):
        return prompt
    if own:
        raise SettingError(
            f"Line {line.number} has the tags {' '.join(own)}, the source {' '.join(tags) or 'none'}; they must be the same."
        )
    return f"{prompt} {' '.join(tags)}"


def _prompt_or_none(line: Line, source: str) -> str | None:
    try:
        return prompt_of(line, source)
    except SettingError:
        return None


def _check_words(stream: Callable[[str], PromptTokens], edits: Edits, plan: Plan) -> tuple[PromptTokens, ...]:
    """Align everything once, as the passes will. The tokens of the source and of every line's prompt."""
    source = stream(edits.source)
    streams = [of_line(line, lambda prompt=prompt: stream(prompt)) for line, prompt in zip(edits.lines, edits.prompts)]
    _check_windows(edits, plan, streams)
    for cell in dict.fromkeys(Cell(c.line, cross=c.cross, weights=c.weights) for c in plan.cells() if c.control):
        line, theirs = edits.lines[cell.line], streams[cell.line]
        cross = values.windows(f"{TITLE}: {controls.CROSS}", cell.cross)
        of_line(line, lambda: mix(source, theirs, edits.edit_of(cell), cross, missing_ok=True))  # noqa: B023 - called at once
        # Not by the tokens: emphasis leaves them as they are.
        same = theirs.text.split() == source.text.split()
        if same and not cell.weights_on(line.weights) and WEIGHT not in (edits.settings["x"], edits.settings["y"]):
            raise SettingError(f"Line {line.number} is {line.text!r}; it changes nothing in the prompt.")
    blend = edits.local_blend(edits.settings["threshold"])
    if blend is not None:
        ours, given = values.blend_words("", edits.settings["blend"])
        _find_each("blend", ours, [source])
        _find_each("blend", given, streams)
        for line, theirs in zip(edits.lines, streams):
            of_line(line, lambda: blend.aligned([source, theirs], strict=False))  # noqa: B023
        _find_each("subtract", blend.subtract, [source, *streams])
    _find_each("heat", edits.heat_words(), [source, *streams])
    return source, *streams


def _check_windows(edits: Edits, plan: Plan, streams: Sequence[PromptTokens]) -> None:
    """A word with a window of its own must be in one of the edited prompts."""
    for cross in dict.fromkeys(cell.cross for cell in plan.cells() if cell.control):
        by_word = values.windows(f"{TITLE}: {controls.CROSS}", cross)
        _find_each("cross", [word for word in by_word if word != values.DEFAULT] if isinstance(by_word, dict) else (), streams)


def _find_each(control: str, words: Sequence[str], streams: Sequence[PromptTokens]) -> None:
    """SettingError naming the control when one of its words is in none of the prompts."""
    for word in words:
        if not any(stream.has(word) for stream in streams):
            try:
                streams[0].find(word)
            except SettingError as error:
                raise SettingError(f"{TITLE}: {controls.CONTROLS[control].label} has {str(error).removeprefix('word is ')}") from None


def of_line(line: Line, make: Any) -> Any:
    """What ``make`` makes; a complaint says which line it is about."""
    try:
        return make()
    except SettingError as error:
        sentence = str(error)
        raise SettingError(sentence if sentence.startswith(f"Line {line.number}") else f"Line {line.number}: {sentence}") from None
