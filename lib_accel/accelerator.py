"""The accelerator of one U-Net: its methods, the step clock, and the account of what was done."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .arming import Arming, in_words, strict, unwrap
from .auto import AutoChoice
from .backends import backend_for
from .backends.pipeline import PipelineView
from .copies import clean_copies, drop_clean_copies
from .layout import Row
from .methods.base import HostTraits, Runner, UNetCall
from .report import Report
from .schedule import Step, StepClock, timestep_value
from .settings import SettingError
from .sites import PARTS, Site, find_unet, is_compiled, out_of_reach
from .threads import is_inside
from .thresholds import Thresholds
from .timing import Stopwatch

# Since torch 2.3. Before that a compiled U-Net is known by its own marks alone.
_is_tracing = getattr(torch.compiler, "is_compiling", bool)

_ACCELERATORS: weakref.WeakKeyDictionary[nn.Module, Accelerator] = weakref.WeakKeyDictionary()


def accelerator_of(unet: nn.Module) -> Accelerator | None:
    """The accelerator at work on ``unet``, if any."""
    return _ACCELERATORS.get(unet)


class Accelerator:
    """Methods applied to one U-Net, from its making until `remove`. At most one per U-Net: a new one replaces the old.

    model: see `find_unet`. methods: settings objects such as `TokenMerging`. traits: what the host does inside its attention layers.
    auto: True lets a method act only where it pays (by this machine's table), False wherever its settings say, a `Thresholds` by that
    table; None is True unless the environment says ACCEL_AUTO=0.
    UnsupportedModelError for an unknown model; SettingError when two methods would meet in one computation. The model is then untouched.
    """

    def __init__(self, model: Any, *methods: Any, traits: HostTraits | None = None, auto: bool | Thresholds | None = None) -> None:
        unet = find_unet(model)
        self._backend = backend_for(unet)
        self._runners: list[Runner] = [_runner(m) for m in methods]
        _refuse_meetings(self._runners)
        self._traits = traits or HostTraits()
        self._sites: list[Site] = self._backend.find_sites(unet)
        self._finest = min((site.level for site in self._sites), default=0)
        self._pipeline = PipelineView(model) if hasattr(model, "scheduler") and hasattr(model, "unet") else None
        self._auto = AutoChoice(_auto_default() if auto is None else auto, self._traits.fused_kernel())
        self._clock = StepClock()
        self._watch = Stopwatch()
        self._passes = self._calls = 0
        self._steps: set[tuple[int, int]] = set()
        self._stood_down: set[str] = set()
        self._arming: Arming | None = None
        self._thread: int | None = None
        self._entrance = threading.Lock()
        self._unet = weakref.ref(unet)
        self._wrapped_by_compiler = hasattr(getattr(model, "unet", model), "_orig_mod")

        before = accelerator_of(unet)
        if before is not None:
            before.remove()
        if self._runners:
            self._handles = [
                unet.register_forward_pre_hook(self._enter, with_kwargs=True),
                unet.register_forward_hook(self._leave, with_kwargs=True, always_call=True),
            ]
            clean_copies(unet, self._handles, self.sweep)
        else:
            self._handles = []
        _ACCELERATORS[unet] = self

    # -- what a host tells -------------------------------------------------------------------------------------------------

    def step(self, index: int, total: int, rows: Sequence[Row] | None = None) -> None:
        """The U-Net calls that follow belong to step ``index`` (from 0) of ``total``. ValueError when out of range.

        rows: all rows of the step in the order in which its U-Net calls take them, whatever the number of calls; None: unknown.
        """
        self._clock.tell(index, total, None if rows is None else tuple(rows))

    def new_pass(self) -> None:
        """The next U-Net call begins a pass (a new picture, a hires pass), whatever its step."""
        self._clock.new_pass()

    @property
    def rows_taken(self) -> int:
        """How many rows the U-Net calls of the step told last held so far."""
        return self._clock.rows_taken

    def sweep(self) -> None:
        """Take out whatever an interrupted U-Net call left on the layers."""
        if self._arming is not None:
            self._arming.disarm()
            self._arming = None

    def remove(self) -> None:
        """Take everything back. The model is then as it was; `report` stays valid. Does nothing the second time."""
        self.sweep()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        unet = self._unet()
        if unet is not None:
            drop_clean_copies(unet)
            for layer in (site.part(part) for site in self._sites for part in PARTS):
                if layer is not None:
                    unwrap(layer)
            if _ACCELERATORS.get(unet) is self:
                del _ACCELERATORS[unet]
        for runner in self._runners:
            runner.reset()

    def __enter__(self) -> Accelerator:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    # -- one U-Net call ----------------------------------------------------------------------------------------------------

    def _enter(self, unet: nn.Module, args: tuple, kwargs: dict) -> None:
        if _is_tracing() or self._is_compiled() or unet is not self._unet():
            # The last: a replica that shares our hooks (DataParallel) runs plain.
            return
        me = threading.get_ident()
        with self._entrance:
            if self._thread not in (None, me) and is_inside(self._thread, unet):
                raise RuntimeError("This U-Net is already running in another thread; an accelerated model serves one thread at a time.")
            self.sweep()
            self._thread = me
        try:
            self._arm(args, kwargs)
        except Exception as error:
            self.sweep()
            if strict():
                raise
            self._stood_down.add(f"everything stood down after an error: {in_words(error)}")

    def _leave(self, unet: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if not _is_tracing() and self._thread == threading.get_ident() and unet is self._unet():
            self._watch.stop()
            self.sweep()
            self._thread = None

    def _is_compiled(self) -> bool:
        return self._wrapped_by_compiler or is_compiled(self._unet())

    def _arm(self, args: tuple, kwargs: dict) -> None:
        sample = self._backend.sample_of(args, kwargs)
        rows = sample.shape[0]
        step = self._read_step(self._backend.timestep_of(args, kwargs))
        layout = self._clock.take_rows(rows, self._pipeline.rows(rows) if self._pipeline else None)
        if step.new_pass:
            self._passes += 1
            for runner in self._runners:
                runner.reset()
        now = (self._passes, step.index)
        self._steps.add(now)
        self._calls += 1
        self._watch.start(sample.device)
        if torch.is_grad_enabled():
            self._stood_down.add("everything stood down: gradients are enabled (run under torch.no_grad())")
            return
        call = UNetCall(self._backend, self._traits, step, layout, now, self._finest)
        self._arming = Arming(call, self._unet())
        self._arming.arm(self._wanted(step, sample))

    def _read_step(self, timestep: Any) -> Step:
        """Where this call stands: by the host, else by the pipeline's schedule, else by the timestep."""
        if self._clock.told:
            return self._clock.at_host_step()
        step = self._pipeline.step(self._clock, timestep) if self._pipeline else None
        return step or self._clock.at_timestep(timestep_value(timestep))

    def _wanted(self, step: Step, sample: torch.Tensor):
        """The sites that active methods act on: (site, runners by part, runners that watch the block's tokens)."""
        unet = self._unet()
        active = [r for r in self._runners if step.within(r.window) and not r.account.failed]
        for site in self._sites:
            parts: dict[str, list[Runner]] = {}
            watchers = []
            for runner in active:
                wanted = runner.wants(site, self._finest)
                if not wanted:
                    continue
                refusal = out_of_reach(unet, site) or self._auto.refusal(runner.account.name, site, sample)
                if refusal:
                    runner.account.stood_down(refusal, site.name)
                    continue
                for part in wanted:
                    parts.setdefault(part, []).append(runner)
                if runner.needs_tokens:
                    watchers.append(runner)
            if parts:
                yield site, parts, watchers

    # -- the account -------------------------------------------------------------------------------------------------------

    @property
    def sites(self) -> tuple[Site, ...]:
        """The U-Net's transformer blocks, in order of execution."""
        return tuple(self._sites)

    def report(self) -> Report:
        """What was done so far, as a snapshot."""
        stood_down = self._stood_down | ({"everything stood down: the U-Net is compiled"} if self._is_compiled() else set())
        return Report(
            {
                "backend": self._backend.name,
                "sites": len(self._sites),
                "unet_calls": self._calls,
                "passes": self._passes,
                "steps": len(self._steps),
                "seconds": self._watch.seconds(),
                "methods": [runner.account.as_dict() for runner in self._runners],
                "stood_down": sorted(stood_down | self._auto.complaints),
                "auto": self._auto.as_dict(),
            }
        )


def _auto_default() -> bool:
    return os.environ.get("ACCEL_AUTO", "1") != "0"


def _runner(method: Any) -> Runner:
    make = getattr(method, "runner", None)
    if make is None or isinstance(method, type):
        raise SettingError(f"{method!r} is no method; give settings objects such as TokenMerging(ratio=0.5).")
    return make()


def _refuse_meetings(runners: list[Runner]) -> None:
    """SettingError when two methods would reduce or compute the same part in the same part of a pass."""
    for position, one in enumerate(runners):
        for other in runners[position + 1 :]:
            meet = max(one.window[0], other.window[0]) < min(one.window[1], other.window[1])
            parts = (one.reduces & other.reduces) | (one.computes & other.computes)
            if meet and parts:
                raise SettingError(
                    f"The windows {one.window} of {one.account.name} and {other.window} of {other.account.name} overlap, and both act "
                    f"on {', '.join(sorted(parts))}; give them windows that only touch, such as (0, 0.4) and (0.4, 1)."
                )
