"""Jobs that are shared out among machines: what the others are told, and whose line a picture carries."""

from __future__ import annotations

from typing import Any

from ...core.fields import SettingError
from ...settings.infotext import REPORT_KEY
from ...settings.job import CUSTOM, preset_values
from ..accordion import user_presets
from ..host import distributed
from . import job


def tell_others(p: Any, script: Any, args: tuple) -> None:
    """A job is about to be shared out, perhaps: then the others are told its settings by name, and nothing that was of an earlier job is on
    ``p``, all of which is sent."""
    if distributed.script_of(p) is None:
        return
    setattr(p, job.JOB, None)
    own, _ = user_presets.read()
    try:
        given = job.given_by(args, dict(getattr(p, job.AXES, None) or {}), own)
        name = str(given.get("preset", CUSTOM))
        if name in own:
            # Nobody else knows it.
            given = {**preset_values(name, "sd1", own), **given, "preset": CUSTOM}
    except SettingError:
        return
    distributed.name_values(p, script, given)


def write_picture(p: Any) -> None:
    """As `job.write`, for the next picture of the batch, which another machine may have drawn in its own way."""
    job.write(p)
    mine = job.job_of(p)
    remote = mine.shares.next_picture(p) if mine is not None else None
    if remote is None:
        return
    if not remote.acted:
        job.take_out(p)
    if remote.report is not None:
        p.extra_generation_params[REPORT_KEY] = remote.report


def tell_of_others(mine: job.Job) -> None:
    """All pictures are drawn: the account says which came from other machines."""
    said = mine.shares.told(mine.p)
    if said:
        mine.account.note("", said)
