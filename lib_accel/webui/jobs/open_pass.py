"""A pass that is being sampled: whose it is, what acts in it, and how it ran."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...core.reasons import Reason
from ...core.report import Report
from ...core.sites import held_unet, is_compiled
from ...cost.preview import PassPreview, ran_pass
from ...engine.accelerator import Accelerator
from ...engine.subject import COMPILED
from ...settings.passes import displaced, methods_for
from ..host import facts
from ..host.forge_steps import ForgeSteps
from ..host.levels import foreseen
from ..host.steps import Steps
from .circumstances import adapted
from .job import Job, family_for

NO_BLOCKS = Reason.of("no_blocks", "0 of 0 layers: this model has no transformer blocks that Accel knows")


@dataclass
class OpenPass:
    """A pass that is being sampled. accelerator: None where nothing acts in it. size: of its pictures, (width, height). guided: whether the
    host itself runs the negative prompt in it. sampler: its name. told: a part of it, drawn by another model, is in the account."""

    job: Job
    place: str
    accelerator: Accelerator | None = None
    unet: Any = None
    checkpoint: Any = None
    steps: Steps | ForgeSteps | None = None
    size: tuple[int, int] | None = None
    guided: bool = True
    sampler: str = ""
    told: bool = False
    watched: list[Any] = field(default_factory=list)


def methods_in(now: OpenPass, p: Any, switched: bool) -> tuple[Any, ...]:
    """What acts in a pass of ``p``; why something does not is told. switched: the pass began with another model."""
    account = now.job.account
    obstacle = facts.obstacle(p)
    if obstacle:
        account.note(now.place, obstacle)
        return ()
    if not facts.has_blocks(now.unet):
        account.note(now.place, NO_BLOCKS)
        return ()
    if is_compiled(now.unet) or hasattr(held_unet(p.sd_model), "_orig_mod"):
        account.note(now.place, COMPILED)
        return ()
    settings = now.job.settings_for(family_for(p))
    left_alone = facts.why_left_alone(p, settings) if now.job.accelerates else None
    acts = now.job.accelerates and left_alone is None
    if acts:
        now.job.tell_few_steps(p, now.place)
    methods, *whys = methods_for(settings, now.place, facts.droppable_scale(p)) if acts else ((), left_alone)
    whys += displaced(settings, now.place) if acts and methods else []
    if now.job.edits is not None:
        edited, why_unedited = now.job.edits.methods(p, now.place)
        methods, whys = methods + edited, [*whys, why_unedited]
    methods, more = adapted(methods, p, now.unet, switched)
    more += [" ".join(limit) for limit in (method.limit() for method in methods) if limit]
    for why in filter(None, [*whys, *more]):
        account.note(now.place, why)
    return methods


def ran_in(now: OpenPass, report: Report) -> list[PassPreview]:
    """See `Account.add`; empty where it cannot be told."""
    if now.job.settings is None or now.size is None or now.job.p is None:
        return []
    shape, sampler = facts.shape_of(now.unet), foreseen(now.sampler)
    return ran_pass(report.as_dict(), report.rows, now.job.settings, now.place, shape, now.size, sampler, now.guided)
