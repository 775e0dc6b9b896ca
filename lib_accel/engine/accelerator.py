"""The accelerator of one U-Net: its methods, the step clock, and the account of what was done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from ..core.model_words import told_of
from ..core.reasons import Reason, as_data
from ..core.report import Report
from ..core.rows import Row, RowPlan
from ..core.sites import PARTS, Site, held_second
from .at_work import accelerator_of, begins, ends
from .auto import AutoChoice
from .calls import Calls
from .contract import HostTraits
from .dispatch import refuse_meetings, runner_of
from .host_side import HostSide
from .instance_forward import unwrap
from .shared import Shared
from .subject import Subject
from .thresholds import Thresholds

WHOLE_CALLS_ONLY = "{model} is a transformer: Accel can only skip whole calls of it"
ASIDE = Reason.of("aside", "it was paused while edit_images drew")
REPLACED = Reason.of("replaced", "another accelerator replaced this one on the U-Net")


class Accelerator:
    """Methods applied to one U-Net, from its making until `remove`. At most one per U-Net: a new one replaces the old.

    Of a pipeline with two transformers both: they take turns in a pass. model: see `find_unet`. methods: settings objects such as
    `TokenMerging`. traits: what the host does inside its attention layers.
    auto: True lets a method act only where it pays (by this machine's table), False wherever its settings say, a `Thresholds` by that
    table; None is True unless the environment says ACCEL_AUTO=0.
    UnsupportedModelError for an unknown model; SettingError for a bad ``auto``, and when two methods would meet in one computation. The
    model is then untouched.
    """

    def __init__(self, model: Any, *methods: Any, traits: HostTraits | None = None, auto: bool | Thresholds | None = None) -> None:
        runners = [runner_of(m) for m in methods]
        refuse_meetings(runners)
        self._subject = Subject(model, any(runner.serves_stages for runner in runners))
        self._subjects = [self._subject]
        if self._subject.backend.whole_calls_only and held_second(model) is not None:
            self._subjects.append(Subject(model, False, held_second))
        for runner in runners:
            runner.stages, runner.coarsest, runner.at_work = self._subject.stages, self._subject.coarsest, runners
            if self._subject.backend.whole_calls_only and runner.acts_inside:
                runner.stop(Reason.of("whole_calls_only", WHOLE_CALLS_ONLY, model=type(self._subject.unet).__name__))
        self._runners = runners
        self._host = HostSide(model, runners, self._subject.backend.whole_calls_only)
        traits = traits or HostTraits()
        self._auto = AutoChoice(_auto_default() if auto is None else auto, traits.fused_kernel())
        self._shared = Shared()
        self._calls = [Calls(subject, runners, self._host, traits, self._auto, self._shared) for subject in self._subjects]
        self._removed = False
        # How many `with` blocks are open.
        self._entered = 0
        self._put()

    # -- what a host tells and asks ------------------------------------------------------------------------------------------

    def step(self, index: int, total: int, rows: Sequence[Row] | None = None, *told: Any, **more: Any) -> None:
        """The U-Net calls that follow belong to step ``index`` (from 0) of ``total``. See `HostSide.step` for what else may be told."""
        self._host.step(index, total, rows, *told, **more)

    def row_plan(self, adds_direction: bool = False) -> RowPlan | None:
        """Which rows of the step told last are to run, None for all; see `HostSide.row_plan`."""
        return self._host.row_plan(adds_direction)

    def direction(self, image: int) -> torch.Tensor | None:
        """What picture ``image`` is guided by in a step whose rows a host dropped; see `HostSide.direction`."""
        return self._host.direction(image)

    def switch_off(self, methods: tuple[type, ...], why: str) -> None:
        """Methods whose settings are of these types do nothing more; see `HostSide.switch_off`."""
        self._host.switch_off(methods, why)

    def new_pass(self) -> None:
        """The next U-Net call begins a pass, whatever its step. What was kept for the last is freed."""
        self._host.new_pass()

    @property
    def rows_taken(self) -> int:
        """How many rows the U-Net calls of the step told last held so far."""
        return self._host.rows_taken

    # -- its end --------------------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Take out whatever an interrupted U-Net call left on the layers."""
        for calls in self._calls:
            calls.sweep()

    def remove(self) -> None:
        """Take everything back. The model is then as it was; `report` stays valid. Does nothing the second time."""
        if self._removed:
            # Another accelerator may be at work by now; what is on the layers is its own.
            return
        self._removed = True
        self.stand_aside()
        for calls in self._calls:
            calls.forget()

    def end_pass(self) -> None:
        """The pass under way, if any, is over: for hosts whose samplers run fewer steps than they say (DDIM in image to image)."""
        for calls in self._calls:
            calls.end_pass()

    def is_replaced(self) -> None:
        """Another one is at work on the U-Net: `remove`, and the report says so."""
        self._shared.tally.stood_down.add(REPLACED)
        self.remove()

    def stand_aside(self) -> None:
        """Do nothing until `go_on`. The model is then as it was; what was kept, and the account, stay."""
        for calls, subject in zip(self._calls, self._subjects):
            self._shared.tally.stood_down |= {subject.why_out_of_reach()} - {None}
            calls.sweep()
            calls.attachment.take_off(calls.needs_post_hook)
            unet = subject.unet
            if unet is not None and accelerator_of(unet) in (None, self):
                layers = (site.part(part) for site in subject.sites for part in PARTS)
                for module in (*layers, *(module for stage in subject.stages for module in stage.modules)):
                    if module is not None:
                        unwrap(module)
                ends(unet, self)

    def go_on(self) -> None:
        """After `stand_aside`: be at work again. Does nothing when removed; where another one is at work, that replaces this one."""
        unets = [subject.unet for subject in self._subjects if subject.unet is not None]
        if self._removed or not unets:
            return
        if any(accelerator_of(unet) not in (None, self) for unet in unets):
            self.is_replaced()
        else:
            self._shared.tally.stood_down.add(ASIDE)
            self._put()

    def _put(self) -> None:
        for calls, subject in zip(self._calls, self._subjects):
            unet = subject.unet
            if unet is None:
                continue
            begins(unet, self)
            unwrap(unet)
            if self._runners:
                calls.attachment.put(serves=subject.why_out_of_reach() is None)

    def __enter__(self) -> Accelerator:
        if self._removed:
            # Everything inside would silently be drawn without it.
            raise RuntimeError("This accelerator was removed and does nothing more. Call accelerated() again.")
        self._entered += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self._entered -= 1
        if not self._entered:
            self.remove()

    # -- the account -------------------------------------------------------------------------------------------------------

    @property
    def sites(self) -> tuple[Site, ...]:
        """The U-Net's transformer blocks, in order of execution."""
        return tuple(self._subject.sites)

    def running(self, kind: type) -> Any:
        """The runner of the method whose settings are a ``kind`` (such as `PromptToPrompt`); None when there is none."""
        return next((runner for runner in self._runners if isinstance(runner.config, kind)), None)

    def heat_maps(self, words: Sequence[str | int], every_step: bool = False) -> dict[str | int, Any]:
        """Word -> [images, h, w], where each picture's cross-attention looked for it: the mean over layers and steps of this pass.

        every_step: word -> {(image, layer, step): [h, w]} instead. For accelerators with `HeatMaps`, or with a `PromptToPrompt` that has
        ``tokens``; ValueError for others, WordError for unknown words.
        """
        for runner in self._runners:
            maps = runner.word_maps(words, every_step) if hasattr(runner, "word_maps") else None
            if maps is not None:
                return maps
        raise ValueError("This accelerator watches no words; give it HeatMaps(tokens), or a PromptToPrompt with tokens.")

    def report(self) -> Report:
        """What was done so far, as a snapshot."""
        subject, tally = self._subject, self._shared.tally
        out_of_reach = {subject.why_out_of_reach() for subject in self._subjects} - {None}
        told = tally.stood_down | self._auto.complaints | (set() if self._removed else out_of_reach)
        stood_down = sorted(told)
        whole = {
            "backend": subject.backend.name,
            "model": subject.called,
            "noun": subject.backend.noun,
            "sites": len(subject.sites),
            **tally.as_dict(len(subject.stages)),
            "passes": self._host.where.passes,
            "seconds": self._shared.watch.seconds(),
            "methods": [runner.account.as_dict() for runner in self._runners],
            "stood_down": stood_down,
            "reasons": [as_data(clause) for clause in stood_down],
            "auto": self._auto.as_dict(),
        }
        return Report(told_of(subject.backend.noun, whole))


def _auto_default() -> bool:
    return os.environ.get("ACCEL_AUTO", "1") != "0"
