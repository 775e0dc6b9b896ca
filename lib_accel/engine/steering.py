"""Under what a pass runs: its model, prompts, guidance scale and adapters. What was kept under others is let go."""

from __future__ import annotations

from ..core.conditions import SCALE, adapters_of, scale_of_adapters
from .contract import Moment
from .host_side import HostSide
from .shared import Shared
from .subject import Subject


class Steering:
    """Of the calls of ``subject``; ``shared`` with those of the pipeline's other model."""

    def __init__(self, subject: Subject, host: HostSide, shared: Shared) -> None:
        self._subject, self._shared, self._conditions = subject, shared, shared.conditions
        self._where, self._course = host.where, host.course

    def clear(self) -> None:
        """The next call is compared with none before it."""
        self._conditions.clear()

    def compare(self, moment: Moment, args: tuple, kwargs: dict) -> None:
        """Let go of what was kept under others, or of another model. Hosts that tell steps say themselves from when on prompts stay.

        args, kwargs: of the U-Net's call at ``moment``.
        """
        unet = self._subject.unet
        if self._shared.turns_to(unet):
            self._conditions.clear()
            self._course.let_go(everything=True)
        if moment.step.new_pass:
            self._conditions.clear()
        if moment.step.source == "host":
            return
        scale = moment.scales and moment.scales[0]
        texts = self._subject.backend.texts_of(unet, args, kwargs)
        adapters = adapters_of(unet)
        adapters = None if adapters is None else (adapters, scale_of_adapters(kwargs))
        changed = self._conditions.changed(moment.rows, texts, adapters, scale, whole=self._where.in_loop)
        if changed and self._course.let_go(only_scale=changed == (SCALE,)):
            clause = "what was kept was discarded when {what} changed during the pass"
            self._shared.tally.tell("conditions_changed", clause, what=" and ".join(changed))
