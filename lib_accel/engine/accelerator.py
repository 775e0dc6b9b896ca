"""The accelerator of one U-Net: its methods, the step clock, and the account of what was done."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..backends import backend_for
from ..backends.loops import calling_loop
from ..core.conditions import Conditions, adapters_of
from ..core.derivatives import why_derivatives
from ..core.errors import in_words, strict
from ..core.placeholder import Placeholder
from ..core.report import Report
from ..core.row_slicing import prediction_of
from ..core.rows import Row, RowPlan
from ..core.sites import PARTS, Site, find_unet, held_unet, is_compiled
from ..core.stages import Stage
from ..core.threads import is_inside
from .auto import AutoChoice
from .call_forward import CallForward
from .call_plan import Means, OpenCall, plan_call
from .contract import HostTraits, Moment, UNetCall
from .copying import clean_copies, drop_clean_copies
from .dispatch import refuse_meetings, runner_of, wanted_sites
from .guard import guarded
from .hooks import Arming
from .host_side import HostSide
from .instance_forward import below, unwrap
from .stage_forward import stage_runs
from .stopwatch import Stopwatch
from .thresholds import Thresholds

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
        runners = [runner_of(m) for m in methods]
        refuse_meetings(runners)
        self._traits = traits or HostTraits()
        self._sites: list[Site] = self._backend.find_sites(unet)
        self._finest = min((site.level for site in self._sites), default=0)
        self._stages = self._backend.find_stages(unet) if any(runner.serves_stages for runner in runners) else ()
        for runner in runners:
            runner.stages = self._stages
            runner.coarsest = max((site.level for site in self._sites), default=0)
        self._runners = runners
        self._host = HostSide(model, runners)
        self._where, self._course = self._host.where, self._host.course
        self._auto = AutoChoice(_auto_default() if auto is None else auto, self._traits.fused_kernel())
        self._watch = Stopwatch()
        self._conditions = Conditions()
        self._calls = self._calls_served = self._rows = self._rows_run = self._rows_served = self._stages_served = 0
        self._steps: set[tuple[int, int]] = set()
        self._stood_down: set[str] = set()
        self._removed = False
        self._arming: Arming | None = None
        self._open: OpenCall | None = None
        self._thread: int | None = None
        # The thread of the last call; its pipeline may be at work still.
        self._owner: int | None = None
        self._entrance = threading.Lock()
        self._unet = weakref.ref(unet)
        self._wrapped_by_compiler = hasattr(held_unet(model), "_orig_mod")

        before = accelerator_of(unet)
        if before is not None:
            before._stood_down.add("another accelerator took this one's place on the U-Net")
            before.remove()
        if self._runners:
            self._handles = [
                unet.register_forward_pre_hook(self._enter, with_kwargs=True),
                unet.register_forward_hook(self._leave, with_kwargs=True, always_call=True),
            ]
            clean_copies(unet, self._handles, self.sweep)
        else:
            self._handles = []
        unwrap(unet)
        self._forward: CallForward | None = None
        if any(runner.serves_calls for runner in runners) and not self._is_compiled():
            self._forward = CallForward(unet, self._serve)
            self._forward.put()
        _ACCELERATORS[unet] = self

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
        if self._arming is not None:
            self._arming.disarm()
            self._stages_served += self._arming.stages_served
            self._arming = None
        unet = self._unet()
        if self._open is not None and not (unet is not None and is_inside(self._thread, unet)):
            self._open = None

    def remove(self) -> None:
        """Take everything back. The model is then as it was; `report` stays valid. Does nothing the second time."""
        if self._removed:
            # Another accelerator may be at work by now; what is on the layers is its own.
            return
        self._removed = True
        self.sweep()
        # A call under way that runs on fewer rows still needs its post-hook.
        handles, self._handles = self._handles, self._handles[1:] if self._open is not None and self._open.plan.leaves_rows_out else []
        for handle in handles[: len(handles) - len(self._handles)]:
            handle.remove()
        if self._forward is not None:
            self._forward.end()
        unet = self._unet()
        if unet is not None:
            drop_clean_copies(unet)
            layers = (site.part(part) for site in self._sites for part in PARTS)
            for module in (*layers, *(module for stage in self._stages for module in stage.modules)):
                if module is not None:
                    unwrap(module)
            if _ACCELERATORS.get(unet) is self:
                del _ACCELERATORS[unet]
        self._course.forget()
        self._conditions.clear()

    def __enter__(self) -> Accelerator:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    # -- one U-Net call ----------------------------------------------------------------------------------------------------

    def _enter(self, unet: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if _is_tracing() or self._is_compiled() or unet is not self._unet():
            # The last: a replica that shares our hooks (DataParallel) runs plain.
            return None
        me = threading.get_ident()
        with self._entrance:
            if self._thread not in (None, me) and is_inside(self._thread, unet):
                return self._run_plain()
            if self._owner not in (None, me) and calling_loop(unet, self._owner) is not None:
                # Another thread's pipeline is between two of its steps.
                return self._run_plain()
            if self._open is not None and self._open.plan.leaves_rows_out and self._thread == me and is_inside(me, unet, times=2):
                # A call inside a call that runs on fewer rows: it has those, and no others to drop.
                self._open.nested += 1
                return None
            if self._arming is not None and self._thread == me and is_inside(me, unet, times=2):
                self._stood_down.add("the U-Net was called inside a call of itself: what was left of the outer one ran plain")
            self._open = None
            self.sweep()
            self._thread = self._owner = me
        try:
            return self._arm(args, kwargs)
        except Exception as error:
            self._open = None
            self.sweep()
            if strict():
                raise
            self._stood_down.add(f"everything stood down after an error: {in_words(error)}")
            return None

    def _run_plain(self) -> None:
        self._stood_down.add("calls from another thread ran plain: an accelerated U-Net serves one job at a time")

    def _leave(self, unet: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        if _is_tracing() or self._thread != threading.get_ident() or unet is not self._unet():
            return None
        opened = self._open
        if opened is not None and opened.nested:
            opened.nested -= 1
            return None
        self._watch.stop()
        if opened is not None and self._arming is not None:
            opened.answered = self._arming.answered
        self._open = None
        self.sweep()
        self._thread = None
        if opened is None or output is None:  # After an error there is no output.
            return None
        if _ACCELERATORS.get(unet) is not self:
            for handle in self._handles:
                handle.remove()
        if isinstance(prediction_of(output), Placeholder):
            # Code that nobody knows left out what was to be served.
            for runner in opened.runners:
                if runner.serves_stages:
                    runner.stop("what stands for stages that do not run came out of the U-Net")
            output = unet.forward(*args, **kwargs)
        output = opened.finish(output)
        if self._where.ends_pass:
            self._course.end_pass()
            self._conditions.clear()
        return output

    def _means(self, args: tuple, kwargs: dict) -> Means:
        unet = self._unet()
        forward = below(unet.__dict__.get("forward"))
        return Means(
            self._where.tiles,
            self._forward is not None and self._forward.is_on(),
            self._stages,
            self._must_run,
            lambda: self._backend.together(unet, forward, args, kwargs),
        )

    def _must_run(self, stages: Sequence[Stage] | None = None) -> str | None:
        """Why ``stages``, or the whole U-Net, cannot be left out of a call (a clause), or None."""
        unet, sites = self._unet(), self._sites
        if stages is not None:
            below = tuple(f"{name}." for stage in stages for name in stage.names)
            sites = [site for site in sites if site.name.startswith(below)]
        reasons = (stage.out_of_reach(unet) for stage in stages or ())
        return next(filter(None, reasons), None) or self._backend.must_run(sites)

    def _serve(self, args: tuple, kwargs: dict) -> Any:
        """The output of the call under way when all of its rows are served."""
        opened, unet = self._open, self._unet()
        if opened is None or not opened.plan.runs_nothing or self._thread != threading.get_ident() or not is_inside(self._thread, unet):
            return None
        sample = self._backend.sample_of(args, kwargs)
        if sample.shape[0] != opened.plan.count:
            self._stood_down.add("a served call was run: another forward gave the U-Net other rows")
            return None
        self._calls_served += 1
        return self._backend.output_of(unet, args, kwargs, opened.prediction(sample))

    def _is_compiled(self) -> bool:
        return self._wrapped_by_compiler or is_compiled(self._unet())

    def _arm(self, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        sample = self._backend.sample_of(args, kwargs)
        marks = self._backend.marks_of(args, kwargs)
        moment = self._where.at_call(self._unet(), sample, self._backend.timestep_of(args, kwargs), marks)
        by_host = moment.step.source == "host"
        moment = replace(
            moment,
            obstacle=lambda: self._backend.rows_obstacle(self._unet(), args, kwargs, len(sample), by_host),
            joins=lambda: self._backend.joins(self._unet(), args, kwargs),
        )
        self._compare_conditions(moment, args, kwargs)
        active = self._course.at(moment)
        self._steps.add(moment.pass_and_step)
        self._calls += 1
        self._rows += len(sample)
        self._watch.start(sample.device)
        derivatives = why_derivatives()
        if derivatives:
            self._rows_run += len(sample)
            self._stood_down.add(f"everything stood down: {derivatives}")
            return None
        for runner in active:
            with guarded([runner]):
                runner.begin_call(moment)
        active = [runner for runner in active if not runner.stopped]
        self._open = OpenCall(moment, active, plan_call(active, moment, self._means(args, kwargs)))
        given = self._open.cut(self._backend, self._unet(), args, kwargs)
        plan = self._open.plan
        self._rows_run += len(plan.keep)
        self._rows_served += len(plan.output)
        if plan.runs_nothing:
            if not self._forward.is_outermost:
                self._stood_down.add("in served calls another forward ran all the same: it was put over ours")
            return None
        rows = self._open.rows
        call = UNetCall(self._backend, self._traits, moment.step, rows, moment.pass_and_step, self._finest)
        grid = self._backend.grid_of(self._unet(), sample)
        if grid is not None:
            call.grids.update(dict.fromkeys(self._sites, grid))
        self._arming = Arming(call, self._unet())
        if self._stages and (wanted := stage_runs(self._arming, self._stages, active, plan, self._must_run)):
            self._arming.arm_stages(wanted)
        self._arming.arm(wanted_sites(self._unet(), self._sites, active, self._finest, self._backend, self._traits, self._auto, sample))
        return given

    def _compare_conditions(self, moment: Moment, args: tuple, kwargs: dict) -> None:
        """Let go of what was kept under other prompts or adapters. Hosts that tell steps say themselves from when on prompts stay."""
        if moment.step.new_pass:
            self._conditions.clear()
        if moment.step.source == "host":
            return
        unet = self._unet()
        changed = self._conditions.changed(moment.rows, self._backend.texts_of(unet, args, kwargs), adapters_of(unet))
        if changed:
            self._course.let_go()
            self._stood_down.add(f"what was kept was let go when {' and '.join(changed)} changed in mid-pass")

    # -- the account -------------------------------------------------------------------------------------------------------

    @property
    def sites(self) -> tuple[Site, ...]:
        """The U-Net's transformer blocks, in order of execution."""
        return tuple(self._sites)

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
        stood_down = self._stood_down | ({"everything stood down: the U-Net is compiled"} if self._is_compiled() else set())
        return Report(
            {
                "backend": self._backend.name,
                "sites": len(self._sites),
                "unet_calls": self._calls,
                "rows": self._rows,
                "rows_run": self._rows_run,
                "rows_served": self._rows_served,
                "calls_run": self._calls - self._calls_served,
                "calls_served": self._calls_served,
                "stages_run": max(0, (self._calls - self._calls_served) * len(self._stages) - self._stages_served),
                "stages_served": self._stages_served,
                "passes": self._where.passes,
                "steps": len(self._steps),
                "seconds": self._watch.seconds(),
                "methods": [runner.account.as_dict() for runner in self._runners],
                "stood_down": sorted(stood_down | self._auto.complaints),
                "auto": self._auto.as_dict(),
            }
        )


def _auto_default() -> bool:
    return os.environ.get("ACCEL_AUTO", "1") != "0"
