"""The always-on script: hands the host's moments to the session and the job."""

from __future__ import annotations

from functools import wraps
from typing import Any

import modules.scripts as scripts
from modules import errors

from ..core.errors import strict
from ..settings.passes import FIRST, HIRES
from . import callbacks
from .accordion import ui
from .host import requests
from .jobs import job, plots, sharing, started
from .jobs.session import SESSION

# Since 1.10. Older hosts tell of a pass by two other moments.
EVERY_SAMPLING = hasattr(scripts.Script, "process_before_every_sampling")
POST_SAMPLE = hasattr(scripts.Script, "post_sample")
COMPOSITE = hasattr(scripts.Script, "postprocess_image_after_composite")


def _carefully(moment: Any) -> Any:
    """The host prints an exception of ours and goes on with whatever was half done; take everything out then."""

    @wraps(moment)
    def careful(self: Any, p: Any, *args: Any, **kwargs: Any) -> None:
        try:
            moment(self, p, *args, **kwargs)
        except Exception:
            SESSION.sweep()
            if strict():
                raise
            errors.report(f"Accel failed in {moment.__name__} and is off for this job", exc_info=True)

    return careful


def _open(p: Any, place: str, has_sampler: bool = True) -> None:
    """See `Session.open`."""
    if job.job_of(p) is not None:
        callbacks.come_last()
    SESSION.open(p, place, has_sampler)


class AccelScript(scripts.Script):
    """One instance per tab. Nothing of a job is kept on it."""

    section = "accordions"
    create_group = False

    def title(self) -> str:
        return "Accel"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        built = ui.build(self.elem_id, "img2img" if is_img2img else "txt2img")
        self.infotext_fields = built.infotext_fields
        self.paste_field_names = built.paste_field_names
        return built.controls

    def _tab_of(self, p: Any) -> str | None:
        """The tab whose gallery shows the job ``p``; None for requests to the API, which no page shows."""
        if requests.is_one(p):
            return None
        return "img2img" if self.is_img2img else "txt2img"

    @_carefully
    def before_process(self, p: Any, *args: Any) -> None:
        SESSION.sweep(by=p, tab=self._tab_of(p))
        plots.begins(p)
        sharing.tell_others(p, self, args)

    @_carefully
    def process(self, p: Any, *args: Any) -> None:
        job.begin(p, args)

    @_carefully
    def process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        mine = job.job_of(p)
        if mine is not None:
            mine.begin_batch()
            mine.shares.begin_batch(p)
        started.before_sampling(p)
        if mine is not None and mine.edits is not None:
            mine.edits.pad(p)
        if not EVERY_SAMPLING:
            _open(p, FIRST, has_sampler=False)

    if EVERY_SAMPLING:

        @_carefully
        def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None:
            _open(p, HIRES if getattr(p, "is_hr_pass", False) else FIRST)

    else:

        @_carefully
        def before_hr(self, p: Any, *args: Any) -> None:
            _open(p, HIRES)

    if POST_SAMPLE:

        @_carefully
        def post_sample(self, p: Any, ps: Any, *args: Any) -> None:
            SESSION.close(p, self._tab_of(p))
            started.sampled(p)

    else:

        @_carefully
        def postprocess_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
            SESSION.close(p, self._tab_of(p))
            started.sampled(p)

    @_carefully
    def _before_png_info(self, p: Any, picture: Any, *args: Any) -> None:
        # Jobs that others ran inside on this picture may have written theirs into it.
        sharing.write_picture(p)

    if COMPOSITE:
        postprocess_image_after_composite = _before_png_info
    else:
        postprocess_image = _before_png_info

    @_carefully
    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        mine = job.job_of(p)
        if mine is not None:
            SESSION.close(p, self._tab_of(p))
            sharing.tell_of_others(mine)
        plots.ends(p)
        if mine is not None:
            processed.comments = "\n".join(text for text in (getattr(processed, "comments", ""), str(mine.account)) if text.strip())
            started.tell(processed, mine.account.as_dict())
            job.leave_line(p)
