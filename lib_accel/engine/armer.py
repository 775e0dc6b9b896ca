"""What methods do inside a U-Net call, put in place for it."""

from __future__ import annotations

from collections.abc import Sequence

from .auto import AutoChoice
from .call_plan import CallPlan, OpenCall
from .contract import HostTraits, Runner, UNetCall
from .dispatch import wanted_sites
from .hooks import Arming
from .stage_forward import stage_runs
from .subject import Subject


class Armer:
    """Puts methods between the layers and stages of one U-Net for its calls."""

    def __init__(self, subject: Subject, traits: HostTraits, auto: AutoChoice) -> None:
        self._subject, self._traits, self._auto = subject, traits, auto

    def begin(self, opened: OpenCall, repeats: bool = False) -> Arming:
        """For a call in which nothing is in place yet. repeats: see `UNetCall`."""
        subject, moment = self._subject, opened.moment
        told = (subject.backend, self._traits, moment.step, opened.rows, moment.pass_and_step, subject.finest)
        call = UNetCall(*told, repeats=repeats)
        grid = subject.backend.grid_of(subject.unet, moment.sample)
        if grid is not None:
            call.grids.update(dict.fromkeys(subject.sites, grid))
        return Arming(call, subject.unet)

    def put(self, arming: Arming, opened: OpenCall, plan: CallPlan, watching: Sequence[Runner]) -> None:
        """Put everything in place for the call, which runs by ``plan``. watching: the methods that may watch and serve stages."""
        subject = self._subject
        if subject.stages and (wanted := stage_runs(arming, subject.stages, watching, plan, subject.must_run)):
            arming.arm_stages(wanted)
        arming.arm(wanted_sites(subject, opened.runners, self._traits, self._auto, opened.moment.sample))
