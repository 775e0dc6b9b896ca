"""Jobs that our scripts of the Script menu start: whether one was cut short, and which pictures of its result are its own."""

from __future__ import annotations

import weakref
from typing import Any

from modules import shared

# On the host's processing object of such a job: a `Run`.
RUN = "accel_run"


class Run:
    """One job, while it runs. cut: sampling of one of its batches was skipped or interrupted; the host forgets that at the next batch."""

    def __init__(self, p: Any) -> None:
        self._p = weakref.ref(p)
        self.cut = False

    def sampled(self, p: Any) -> None:
        """A batch of ``p`` was sampled. Copies of a job take its run along; theirs is none of it."""
        if self._p() is p:
            self.cut |= bool(shared.state.skipped or shared.state.interrupted)


def begin(p: Any) -> Run:
    """``p`` is about to be started by us."""
    run = Run(p)
    setattr(p, RUN, run)
    return run


def sampled(p: Any) -> None:
    """A batch of the job ``p``, any job, was sampled."""
    run = getattr(p, RUN, None)
    if run is not None:
        run.sampled(p)


def pictures_of(done: Any) -> tuple[list[Any], list[str]]:
    """The pictures of the host's result, and the PNG info of each: without grids, which come before them, and masks, which come among
    them and have no PNG info."""
    first = getattr(done, "index_of_first_image", 0)
    images, infotexts = list(done.images[first:]), list(done.infotexts[first:])
    marked = [image for image in images if image.info.get("parameters")]
    if len(marked) >= len(infotexts):
        images = marked
    elif infotexts and len(images) % len(infotexts) == 0:
        # With the option "enable_pnginfo" off all are without: behind each picture come as many masks.
        images = images[:: len(images) // len(infotexts) or 1]
    images = images[: len(infotexts)]
    return images, infotexts[: len(images)]
