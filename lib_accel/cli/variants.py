"""Variants: what a model is run with, written as words. ``plain``, a preset, methods with their settings, a peer.

    plain    balanced    merging:ratio=0.5,plan=block    agent:window=0-0.4+merging:ratio=0.4,window=0.4-1    balanced@0.5    tomesd
    tgate:gate=0.4    first-block-cache:threshold=0.1    guidance:when=after,after=0.5
    edit:pictures=2 (with --whole: a source and its edits)

``+`` joins methods. A method's window is the whole pass unless it is given. ``@`` says where in the pass a single U-Net call stands, as a
fraction; without it, at the beginning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..api import accelerated
from ..engine.accelerator import Accelerator
from ..engine.thresholds import Thresholds
from ..methods.registry import by_word
from ..settings.model_families import FAMILIES
from ..settings.presets import PRESETS, preset
from .errors import CommandError
from .lab import MISSING, PEERS
from .variant_words import read_settings

METHODS = by_word()
# Finer than any sampler's steps, so that a fraction falls where it says.
POSITIONS = 1000


@dataclass(frozen=True)
class Variant:
    """methods: settings objects, empty for ``plain`` and for peers. at: fraction of the pass at which a single call stands, or None. given:
    what a peer is given besides the model.

    auto: whether methods act only where this machine's table (or this one) says that they pay, or wherever their settings say; None: as
    Accel decides.
    """

    name: str
    methods: tuple[Any, ...] = ()
    peer: str | None = None
    at: float | None = None
    auto: bool | Thresholds | None = False
    given: tuple[Any, ...] = ()

    @contextmanager
    def on(self, model: Any) -> Iterator[Accelerator | None]:
        """``model`` run with this variant; yields its accelerator, if it has one."""
        if self.peer:
            with PEERS[self.peer].apply(model, *self.given):
                yield None
        elif self.methods:
            with accelerated(model, *self.methods, auto=self.auto) as accelerator:
                if self.at is not None:
                    accelerator.step(min(int(self.at * POSITIONS), POSITIONS - 1), POSITIONS)
                yield accelerator
        else:
            yield None


def parse_variant(text: str, family: str = FAMILIES[0]) -> Variant:
    """The variant that ``text`` names; presets are those for ``family``. CommandError or SettingError, one sentence."""
    words, _, place = text.partition("@")
    at = _fraction(text, place) if place or text.endswith("@") else None
    name, _, settings = words.partition(":")
    if words == "plain" or name in PEERS:
        if at is not None:
            raise CommandError(f"variant is {text!r}; @ goes with presets and methods.")
        return Variant(text) if words == "plain" else Variant(text, peer=name, given=_peers_settings(text, name, settings))
    if words.lower() in PRESETS:
        return Variant(text, preset(words, family), at=at)
    return Variant(text, tuple(_method(text, part) for part in words.split("+")), at=at)


def _fraction(text: str, place: str) -> float:
    try:
        at = float(place)
    except ValueError:
        at = -1.0
    if not 0 <= at <= 1:
        raise CommandError(f"variant is {text!r}; what follows @ must be a fraction of the pass from 0 to 1.")
    return at


def _peers_settings(text: str, name: str, settings: str) -> tuple[Any, ...]:
    made = PEERS[name].settings
    if made is None and settings:
        raise CommandError(f"variant is {text!r}; {name} takes no settings.")
    return () if made is None else (made(**read_settings(text, settings, made)),)


def _method(text: str, part: str) -> Any:
    """The settings object that ``part`` (``name`` or ``name:key=value,key=value``) of the variant ``text`` describes."""
    name, _, settings = part.partition(":")
    if name not in METHODS:
        known = ", ".join(("plain", *PRESETS, *METHODS, *PEERS))
        raise CommandError(f"variant is {text!r}; {name!r} must be one of {known}{MISSING}.")
    made = METHODS[name].worded()
    given = read_settings(text, settings, made)
    if "window" in (field.name for field in dataclasses.fields(made)):
        given = {"window": (0.0, 1.0), **given}
    return made(**given).method()
