"""The steps of one pass: told to its accelerator, and run on the rows that its methods want to run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.method import CALL, ROWS, Method
from ...core.reasons import Reason
from ...core.rows import Row
from ...engine.accelerator import Accelerator
from ...methods.registry import of_known_rows
from ..jobs.unguided import Unguided, why_guided
from . import facts, interceptors
from .levels import Levels, scales_of
from .neighbours import changing_loras, controlnet_units, loras_at_work, stages_now
from .rows import guidance_of, parts_of, rows_of, settled_from
from .texts import CHANGED, Texts

LEFT_TO_HOST = Reason.of("left_to_host", "guidance was left to the WebUI where it skips the negative prompt itself (NGMS, Skip Early CFG)")
AND_WEIGHTS = Reason.of("and_weights", "guidance at scale 1 was kept: the weights of the AND prompts do not add up to 1")
CHANGED_BATCH = Reason.of("batch_changed", "another extension changes the batch")
NOTHING_KEPT = Reason.of("nothing_kept", "{why}: nothing is kept from step to step", why=CHANGED_BATCH)


class Steps:
    """See the module. methods: those of the pass. drops_at_one: whether guidance at scale 1 may be dropped."""

    def __init__(self, accelerator: Accelerator, methods: Sequence[Method], drops_at_one: bool) -> None:
        self._accelerator, self._drops_at_one = accelerator, drops_at_one
        self._drops = any(method.declaration.known_rows for method in methods)
        self._leaves_out = any(method.declaration.acts_on == ROWS for method in methods)
        self._asks_sigma = any(method.declaration.sigma(method) for method in methods)
        self._levels = Levels() if self._asks_sigma else None
        self._may_skip = any(method.declaration.acts_on == CALL for method in methods)
        self._unguided: Unguided | None = None
        self._texts = Texts()
        self._expected: int | None = None
        self._trusts_rows = True
        self.notes: set[str] = set()

    def begin(self, denoiser: Any, params: Any) -> None:
        """The host is about to run a step: its callback `on_cfg_denoiser`."""
        self.restore()
        index, total = denoiser.step, max(int(denoiser.total_steps), 1)
        caller = interceptors.caller(denoiser)
        rows = rows_of(denoiser, params) if self._trusts_rows and caller is None else None
        self._expected = None if rows is None else len(rows)
        if rows is None or not self._drops:
            if rows is None:
                self._accelerator.switch_off(of_known_rows(), caller or CHANGED_BATCH)
            self._accelerator.step(index, total, rows)
            return
        parts, settled = parts_of(denoiser), settled_from(denoiser, total)
        self._texts.see(params, stay=index > settled)
        if self._texts.changes:
            self.notes.add(CHANGED)
        told = {
            "guidance": self._guidance(denoiser, parts),
            "settled": settled,
            "guided_because": why_guided(denoiser, parts),
            "whole_because": changing_loras(denoiser.p),
            "state": (controlnet_units(denoiser.p, params), loras_at_work(), stages_now(facts.unet_of(denoiser.p)), self._texts.changes),
        }
        if self._levels is not None:
            told |= self._of_sampler(denoiser, params)
        self._accelerator.step(index, total, rows, **told)
        if not any(row.role == "uncond" for row in rows):
            if self._leaves_out:
                self.notes.add(LEFT_TO_HOST)
            return
        plan = self._accelerator.row_plan(adds_direction=True)
        if plan is None:
            return
        branch = rows[plan.keep[0]].role
        self._unguided = Unguided(denoiser, params, parts, branch, self._accelerator.direction)
        rows = rows[: sum(parts)] if branch == "cond" else [Row("uncond", i) for i, count in enumerate(parts) for _ in range(count)]
        self._expected = len(rows)
        self._accelerator.step(index, total, rows, dropped=True, **told)

    def _guidance(self, denoiser: Any, parts: Sequence[int]) -> float | None:
        """The scale at which guidance may be dropped when it is 1; None where there is none such. What keeps it then is noted."""
        if not self._drops_at_one:
            return None
        combiner = interceptors.combiner(denoiser, parts)
        scale = None if combiner else guidance_of(denoiser)
        if scale is None and denoiser.p.cfg_scale == 1:
            self.notes.add(Reason.of("kept_at_one", "guidance at scale 1 was kept: {why}", why=combiner) if combiner else AND_WEIGHTS)
        return scale

    def _of_sampler(self, denoiser: Any, params: Any) -> dict[str, Any]:
        """What is told for methods that go by noise levels, or leave out whole steps; see `Accelerator.step`."""
        sampler, sigma, sigmas = self._levels.at(denoiser, params)
        told = {"sampler": sampler, "sigma": sigma, "sigmas": sigmas}
        if not self._may_skip:
            return told
        return told | {"scales": scales_of(denoiser)}

    def end(self) -> str | None:
        """The step's U-Net calls are over. A clause when they were not as they were expected to be."""
        self.restore()
        if self._expected is None or self._accelerator.rows_taken == self._expected:
            return None
        self._trusts_rows = False
        self._accelerator.new_pass()
        return NOTHING_KEPT

    def close(self) -> None:
        """The pass is over: nothing of ours is left on the host."""
        self.restore()

    def restore(self) -> None:
        """Take back what a step put on the host, however it ended."""
        unguided, self._unguided = self._unguided, None
        if unguided is not None:
            unguided.restore()
