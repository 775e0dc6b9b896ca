"""One job of the host: what it was asked, what it runs by, its account. Kept on the host's processing object."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...core.fields import SettingError
from ...core.reasons import Reason
from ...settings.infotext import REPORT_KEY, is_ours, to_infotext, unquoted
from ...settings.job import CUSTOM, Settings, implied, on_this_machine, preset_values, resolve, without_untouched
from ...settings.model_families import with_steps
from ...settings.presets import PRESETS
from ...settings.schema import GROUPS, KNOBS, by_label
from ..accordion import refused, user_presets
from ..host import distributed, facts, requests
from .account import Account

# Attributes of the host's processing objects. Copies of such an object take them along, so a job knows whose it is.
JOB, AXES = "accel_job", "accel_axes"
# Set by the script Prompt-to-Prompt on its own jobs: a `prompt_to_prompt.batch.EditedBatch`.
EDITS = "accel_prompt_edit"

GROUP_NAMES = tuple(group.name for group in GROUPS if group.name)
# As a preset of an X/Y/Z plot: the cell is drawn without Accel.
OFF = "off"
NO_PASS = Reason.of("no_pass", "nothing is accelerated: First pass is off, and there is no hires pass")
# Whether all jobs run with or without Accel, while a comparison runs them; None: as each is asked.
_forced: bool | None = None
# The axes of the cell that is drawn now, by `AXES`; None while no plot is drawn.
_cell: dict[str, Any] | None = None


class AccountLine(str):
    """A job's line among the texts of others."""


class Job:
    """A job that Accel has something to do with, or something to say about.

    settings: what it runs by, presets filled in for the model that it starts with; None when bad values switched it off. edits: the batch
    of the script Prompt-to-Prompt that it draws, or None. account: of all of it. line: what is told of the pictures that were drawn
    last; None until a batch is sampled.
    """

    def __init__(
        self, p: Any, given: Mapping[str, Any], own: Mapping[str, Any], error: SettingError | None = None, from_page: bool = False
    ) -> None:
        """given: settings by name, over the user's ``own`` presets. error: why they could not be read. from_page: whoever set them knows
        their labels, not their names."""
        self._p = weakref.ref(p)
        self._given, self._own = dict(given), own
        self.edits = getattr(p, EDITS, None)
        self.settings: Settings | None = None
        self.line: str | None = None
        self.shares = distributed.Shares()
        try:
            if error is not None:
                raise error
            self.settings = self.settings_for(family_for(p))
            self.account = Account(self.settings)
            self.account.noun = facts.noun_of(p)
            if self.accelerates and not self.settings["first_pass"] and not getattr(p, "enable_hr", False):
                self.account.note("", NO_PASS)
        except SettingError as wrong:
            self._given = {}
            self.account = Account(None, by_label(str(wrong)) if from_page else str(wrong))

    def tell_few_steps(self, p: Any, place: str) -> None:
        """What a preset does then in the pass ``place``, which may have a checkpoint of its own."""
        sign = facts.why_few_steps(p) if self.settings["preset"].lower() in PRESETS else None
        if sign:
            self.account.note(place, Reason.of("few_steps", "few steps ({sign}): the preset uses its settings for few steps", sign=sign))

    @property
    def accelerates(self) -> bool:
        """Whether the accordion has anything to do with it."""
        return self.settings is not None and self.settings["enabled"]

    def begin_batch(self) -> None:
        """Other pictures begin: PNG info that is written before they are done has no account of those before."""
        self.account.begin_batch()
        self.line = None
        write(self.p)

    @property
    def p(self) -> Any:
        return self._p()

    def tell_why_none_was_seen(self) -> None:
        """A batch was drawn without a pass that the host told of: whoever replaced its sampling is named."""
        sample = vars(self.p).get("sample")
        if sample is not None and (self.accelerates or self.edits) and not self.account.of_batch.places:
            owner = str(getattr(sample, "__module__", None) or "another script").removesuffix(".py")
            self.account.note("", Reason.of("no_pass_seen", "no pass was seen: {owner} samples in its own way", owner=owner))

    def settings_for(self, family: str) -> Settings:
        """The settings with presets filled in for ``family``, and the token counts that this machine's table says."""
        settings, complaint = on_this_machine(resolve(self._given, family, self._own), facts.table)
        if complaint and self.settings is not None:
            self.account.note("", complaint)
        return settings


@contextmanager
def forced(enabled: bool) -> Iterator[None]:
    """Every job that begins meanwhile runs with Accel, or none does: also those that others run inside of them, which begin anew."""
    global _forced
    before, _forced = _forced, enabled
    try:
        yield
    finally:
        _forced = before


@contextmanager
def plotted() -> Iterator[None]:
    """A plot is drawn meanwhile: what an axis says of a cell is true of the jobs that others run inside of it, too."""
    global _cell
    before, _cell = _cell, {}
    try:
        yield
    finally:
        _cell = before


def _axes_of(p: Any) -> dict[str, Any]:
    """What the axes of a plot say of the job ``p``."""
    global _cell
    own = getattr(p, AXES, None)
    if _cell is not None and own is not None:
        _cell = dict(own)
    return dict((_cell if own is None else own) or {})


def begin(p: Any, args: tuple) -> None:
    """A job starts with the script's ``args``: read them, and write our keys into its PNG info, or take them out."""
    setattr(p, JOB, None)
    write(p)
    _take_lines(p)
    own, complaint = user_presets.read()
    given, enabled, wrong = {}, True, None
    try:
        axes = _axes_of(p)
        if _forced is not None:
            axes["enabled"] = _forced
        given = given_by(args, axes, own)
        enabled = KNOBS["enabled"].read(given.get("enabled", False))
        if enabled:
            refused.check(given)
    except SettingError as error:
        wrong = error
    if not enabled and getattr(p, EDITS, None) is None:
        return
    from_page = requests.by_name(args) is None and not requests.is_one(p)
    job = Job(p, {**given, "enabled": True} if enabled else {}, own, wrong, from_page)
    complaint = complaint or user_presets.untold()
    if complaint and job.settings is not None:
        job.account.note("", complaint)
    setattr(p, JOB, job)
    write(p)


def write(p: Any) -> None:
    """Put our keys into the PNG info of ``p``, or take them out. Others have the same dictionary: the cells of a grid, and the jobs that
    ADetailer runs before the PNG info of a picture is made."""
    take_out(p)
    job = job_of(p)
    if job is not None and job.settings is not None:
        p.extra_generation_params.update(to_infotext(job.settings))
    if job is not None and job.line is not None:
        p.extra_generation_params[REPORT_KEY] = unquoted(job.line)


def take_out(p: Any) -> None:
    """Take our keys out of the PNG info of ``p``."""
    for key in [key for key in p.extra_generation_params if is_ours(key)]:
        del p.extra_generation_params[key]


def leave_line(p: Any) -> None:
    """The job is over: leave its line where the host looks when a script (loopback, SD upscale) makes a result of its own."""
    comments, job = getattr(p, "comments", None), job_of(p)
    if isinstance(comments, dict) and job is not None:
        comments[AccountLine(job.account)] = 1


def _take_lines(p: Any) -> None:
    """Take the lines of earlier jobs out of there: several share one dictionary."""
    comments = getattr(p, "comments", None)
    for text in [text for text in comments if isinstance(text, AccountLine)] if isinstance(comments, dict) else ():
        del comments[text]


def job_of(p: Any) -> Job | None:
    """The job of ``p`` itself; None for a copy whose own job has not begun."""
    job = getattr(p, JOB, None)
    return job if job is not None and job.p is p else None


def given_by(args: tuple, axes: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What a job was given by name: the script's arguments (a dict by name, or values in the order of `KNOBS`), and over them the
    values of an X/Y/Z plot's axes. SettingError."""
    if args and isinstance(args[0], Mapping):
        given = {"enabled": True, **_flat(args[0])}
    else:
        given = dict(zip(KNOBS, args))
        # As an axis, Custom are the knobs as the page shows them.
        if (_is_on(given) or axes) and str(axes.get("preset")).lower() != CUSTOM:
            given = without_untouched(given, own)
    if is_off(axes.get("preset")):
        return {**given, "enabled": False}
    if axes:
        if str(axes.get("preset", CUSTOM)).lower() != CUSTOM:
            filled = preset_values(axes["preset"], "sd1", own)
            given = {name: value for name, value in given.items() if name not in filled}
        # The form's switches do not keep an axis from having an effect.
        given = {**given, "enabled": True, **implied(axes), **axes}
    return given


def is_off(preset: Any) -> bool:
    """Whether an axis's value for the preset says that the cell is drawn without Accel."""
    return str(preset).strip().lower() == OFF


def _is_on(given: Mapping[str, Any]) -> bool:
    return bool(KNOBS["enabled"].read(given.get("enabled", False)))


def _flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """``{"agents": {"ratio": 0.3}}`` may be written instead of ``{"agents.ratio": 0.3}``."""
    flat: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, Mapping) and name in GROUP_NAMES:
            flat.update({f"{name}.{field}": inner for field, inner in value.items()})
        else:
            flat[name] = value
    return flat


def family_for(p: Any) -> str:
    """The family of presets for what ``p`` samples with now."""
    return with_steps(facts.shape_of(p.sd_model), facts.why_few_steps(p))
