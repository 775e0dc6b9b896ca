"""Prompt-to-Prompt at work on one U-Net: which rows are edited in this step, from whom, and what their words look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..backends.known import PLAIN
from ..core.reasons import Reason
from ..core.rows import Row
from ..core.schedule import first_step
from ..core.sites import Site
from ..engine.contract import LayerAtWork, Moment, Runner, UNetCall
from ..ops.attention_edits import CrossEdit, attend, edited_cross_attention
from ..ops.levels import grid_at
from .clauses import LOCAL_BLEND, NO_LAYER, NO_SOURCE, NO_STEP, UNKNOWN_ROWS, kept, nothing_edited
from .layers import Layers
from .local_blend import blended
from .maps import maps_of
from .source_rows import SourceRows, projected
from .word_watch import WordWatch

if TYPE_CHECKING:
    from .method import ImageEdit, PromptToPrompt


class PromptToPromptRunner(Runner):
    """Prompt-to-Prompt at work. Reach it by ``accelerator.running(PromptToPrompt)``."""

    computes = frozenset({"attn1", "attn2"})
    exclusive = True
    ability = PLAIN
    repeatable = False  # maps of words are summed up over calls
    outlives_prompts = True
    window = (0.0, 1.0)

    def __init__(self, config: PromptToPrompt) -> None:
        super().__init__(config)
        self._words = WordWatch(config)
        self._edits = {edit.image: edit for edit in config.edits}
        self._cross_layers = Layers("PromptToPrompt.cross_layers", config.cross_layers)
        self._self_layers = Layers("PromptToPrompt.self_layers", config.self_layers)
        self._sources = SourceRows(config.edits)
        self._moment: Moment | None = None
        self._latents: tuple[int, int] | None = None
        self._mixed: dict = {}
        self._text_now = self._self_now = self._chosen = self._in_window = self._acted = False

    def word_maps(self, words: Sequence[str | int], every_step: bool) -> dict[str | int, Any] | None:
        """See `Accelerator.heat_maps`."""
        return maps_of(self._words.sums, self.config, words, every_step)

    # -- what a host asks ---------------------------------------------------------------------------------------------------

    def masks(self, size: tuple[int, int]) -> dict[int, torch.Tensor]:
        """Edited image -> [H, W] of 0 and 1: where it may differ from its source, by the steps so far. size: (H, W), the latents'.

        Empty before the local blend's start, without one, and where no map was seen.
        """
        blend = self.config.blend
        if blend is None or self._moment is None or self._before(blend.start):
            return {}
        return self._words.masks(size, {image: edit.source for image, edit in self._edits.items()})

    def blend(self, latents: torch.Tensor) -> torch.Tensor:
        """``latents`` [images, channels, H, W] (or predictions of them) with every edited image exactly its source outside its mask."""
        masks = self.masks(tuple(latents.shape[-2:]))
        if not masks:
            return latents
        out = latents.clone()
        for image, mask in masks.items():
            out[image] = blended(latents[image], latents[self._edits[image].source], mask.to(latents.device))
        self.account.note(LOCAL_BLEND)
        return out

    def why_without_effect(self) -> str | None:
        """Why nothing was edited, in a step that should have been (a clause); None where something was, or none should have been yet."""
        if self._moment is None:
            return "the U-Net's calls are not seen"
        if self._acted or not (self._text_now or self._self_now):
            return None
        if not self._chosen:
            return NO_LAYER
        if not self._moment.rows.known:
            return UNKNOWN_ROWS
        return self.account.failed or next(iter(sorted(self.account.reasons)), None)

    # -- a method -----------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        # Maps and masks stay readable until another pass begins, also after the methods were taken off.
        self.end_pass()

    def end_pass(self) -> None:
        self.account.keeps(self._sources.nbytes)
        self._sources.clear()
        self._mixed.clear()

    def begin_pass(self, moment: Moment) -> None:
        self._words.clear()

    def begin_step(self, moment: Moment) -> None:
        self.end_pass()
        self._moment = moment
        self._text_now, self._self_now = self.config.edits_text(moment.step), self.config.edits_self(moment.step)
        self._tell_idle(moment)

    def begin_call(self, moment: Moment) -> None:
        self._moment, self._latents = moment, tuple(moment.sample.shape[-2:])
        if not moment.rows.known:
            self.account.note(nothing_edited(UNKNOWN_ROWS))

    def needs_full(self, moment: Moment) -> str | None:
        return "Prompt-to-Prompt edits attention in this step" if self._text_now or self._self_now else None

    def wants(self, site: Site, finest: int) -> frozenset[str]:
        tokens = self._tokens_at(site)
        parts = set()
        if self._text_now and self._cross_layers.hold(site.place, site.level, tokens):
            parts.add("attn2")
        if self._self_now and self._self_layers.hold(site.place, site.level, tokens):
            parts.add("attn1")
        if parts:
            self._chosen = True
            self.account.is_idle(None)
        self._words.coarsest = self.coarsest
        if self._words.wanted(site, tokens):
            parts.add("attn2")
        return frozenset(parts)

    def compute(self, call: UNetCall, site: Site, layer: LayerAtWork) -> torch.Tensor | None:
        if not any(row.role == "cond" for row in call.rows) or (layer.part == "attn2" and layer.context is None):
            return None
        return self._cross(call, site, layer) if layer.part == "attn2" else self._self(call, site, layer)

    # -- self-attention -----------------------------------------------------------------------------------------------------

    def _self(self, call: UNetCall, site: Site, layer: LayerAtWork) -> torch.Tensor | None:
        edited = {
            index: edit
            for index, row in enumerate(call.rows)
            if row.role == "cond" and (edit := self._edits.get(row.image)) is not None and self.config.edits_self(self._moment.step, edit)
        }
        waited_for = self._sources.waited_for(call.rows)
        if not edited and not waited_for:
            return None
        heads = projected(call, layer, layer.x)
        self._sources.keep((site.name, "attn1"), call.rows, waited_for, heads)
        q, k, v = (tensor.clone() for tensor in heads)
        acted = False
        for index, edit in edited.items():
            source = self._sources.find((site.name, "attn1"), call.rows, (edit.source, call.rows[index].part), heads)
            if source is None:
                self.account.stood_down(kept("self-attention", NO_SOURCE), site.name)
                continue
            if self.config.self_source != "value":
                k[index] = source.k
            if self.config.self_source == "map":
                q[index] = source.q
            else:
                v[index] = source.v
            acted = True
        if not acted:
            return None
        self._acted = True
        self.account.acted("self-attention", site.name)
        out = attend(q, k, v, call.backend.scale_of(layer.module, q.shape[-1]), call.traits.upcast(layer.module))
        return call.backend.project_out(layer.module, out)

    # -- cross-attention ----------------------------------------------------------------------------------------------------

    def _cross(self, call: UNetCall, site: Site, layer: LayerAtWork) -> torch.Tensor | None:
        tokens = self._tokens_at(site)
        edited_here = self._text_now and self._cross_layers.hold(site.place, site.level, tokens)
        wanted = self._mixings(call, site, layer) if edited_here else {}
        waited_for = self._sources.waited_for(call.rows) if edited_here else []
        watches = self._words.wanted(site, tokens)
        if not wanted and not watches and not waited_for:
            return None
        heads = projected(call, layer, layer.context)
        self._sources.keep((site.name, "attn2"), call.rows, waited_for, heads)
        edits = []
        for index, (edit, take, keep) in wanted.items():
            source = self._sources.find((site.name, "attn2"), call.rows, (edit.source, call.rows[index].part), heads)
            if source is None:
                self.account.stood_down(kept("cross-attention", NO_SOURCE), site.name)
                continue
            edits.append(CrossEdit(index, source.q, source.k, take, keep))
        fp32, scale = call.traits.upcast(layer.module), call.backend.scale_of(layer.module, heads.q.shape[-1])
        if watches:
            self._words.add(call, site, heads, edits, scale, fp32)
        if not edits:
            return None
        self._acted = True
        self.account.acted("cross-attention", site.name)
        return call.backend.project_out(layer.module, edited_cross_attention(heads.q, heads.k, heads.v, edits, scale, fp32))

    def _mixings(self, call: UNetCall, site: Site, layer: LayerAtWork) -> dict:
        """Row of the call -> (its edit, A or None, D or None) on the layer's device, for rows that this step edits."""
        found = {}
        for index, row in enumerate(call.rows):
            edit = self._edits.get(row.image) if row.role == "cond" else None
            if edit is None or row.part >= len(edit.mixings) or edit.mixings[row.part] is None:
                continue
            context = layer.context
            key = (row.key, context.shape[1], context.device)
            if key not in self._mixed:
                self._mixed[key] = self._mixing_now(edit, row, context, site)
            if self._mixed[key] is not None:
                found[index] = (edit, *self._mixed[key])
        return found

    def _mixing_now(self, edit: ImageEdit, row: Row, context: torch.Tensor, site: Site) -> tuple | None:
        mixing = edit.mixings[row.part].fitted(context.shape[1])
        if mixing is None:
            aligned = len(edit.mixings[row.part].keep)
            short = Reason.of("short_text", "the text has {tokens} tokens, not {least} or more", tokens=context.shape[1], least=aligned)
            self.account.stood_down(kept("cross-attention", short), site.name)
            return None
        now = mixing.at(self._moment.step, self.config.window_rule)
        if now is None:
            return None
        # Zeros are told from the rest here, where nothing has to be waited for.
        return tuple(part.to(context.device) if bool(part.any()) else None for part in now)

    def _tell_idle(self, moment: Moment) -> None:
        """Never a silent no-op: why nothing is edited, as long as nothing was."""
        self._in_window |= self._text_now or self._self_now
        if not self._chosen:
            self.account.is_idle(nothing_edited(NO_LAYER if self._in_window else NO_STEP))
        blend, total = self.config.blend, moment.step.total
        if blend is not None and total is not None and first_step(blend.start, total) >= total:
            sentence = "no local blend: its start {start:g} is behind the last of {steps} steps"
            self.account.note(Reason.of("no_blend", sentence, start=blend.start, steps=total))

    # -- this step ----------------------------------------------------------------------------------------------------------

    def _tokens_at(self, site: Site) -> int | None:
        if self._latents is None:
            return None
        h, w = grid_at(*self._latents, site.level)
        return h * w

    def _before(self, start: float) -> bool:
        step = self._moment.step
        return step.fraction < start if step.total is None else step.index < first_step(start, step.total)
