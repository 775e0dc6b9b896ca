"""Jobs that our scripts of the Script menu start: whether one was cut short, which pictures of its result are its own, and saving them."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from modules import errors, images

from ...core.errors import in_words
from ...settings.infotext import ACCOUNT_KEY
from ..host import facts
from .stopped import was_stopped

# On the host's processing object of such a job: a `Run`.
RUN = "accel_run"
# What img2img makes of its picture, a row for each picture of a batch.
ENCODED = ("init_latent", "image_conditioning")


class Run:
    """One job, while it runs. cut: sampling of one of its batches was skipped or interrupted; the host forgets that at the next batch.
    alike: all of its pictures start from the same one."""

    def __init__(self, p: Any, alike: bool = False) -> None:
        self._p = weakref.ref(p)
        self.cut, self._alike = False, alike

    def before_sampling(self, p: Any) -> None:
        """img2img's encoder draws anew for every picture of a batch, and so does an inpainting model's."""
        if self._p() is not p or not self._alike:
            return
        for name in ENCODED:
            rows = getattr(p, name, None)
            if isinstance(rows, torch.Tensor) and len(rows) > 1:
                setattr(p, name, rows[:1].expand_as(rows).clone())

    def sampled(self, p: Any) -> None:
        """A batch of ``p`` was sampled. Copies of a job take its run along; theirs is none of it."""
        if self._p() is p:
            self.cut |= was_stopped()


def begin(p: Any, alike: bool = False) -> Run:
    """``p`` is about to be started by us. alike: see `Run`."""
    run = Run(p, alike)
    setattr(p, RUN, run)
    return run


def before_sampling(p: Any) -> None:
    """A batch of the job ``p``, any job, is about to be sampled."""
    run = getattr(p, RUN, None)
    if run is not None:
        run.before_sampling(p)


def sampled(p: Any) -> None:
    """A batch of the job ``p``, any job, was sampled."""
    run = getattr(p, RUN, None)
    if run is not None:
        run.sampled(p)


def pictures_of(done: Any, p: Any) -> tuple[list[Any], list[str]]:
    """The pictures of the host's result for ``p``, and the PNG info of each: without grids, which come before them, masks, which come among
    them, and what other extensions put behind them; none of these has PNG info."""
    first = getattr(done, "index_of_first_image", 0)
    pictures, infotexts = list(done.images[first:]), list(done.infotexts[first:])
    marked = [picture for picture in pictures if picture.info.get("parameters")]
    # With the option "enable_pnginfo" off all are without: behind each picture come the masks that other options ask for.
    pictures = marked if len(marked) >= len(infotexts) else pictures[:: 1 + _masks_behind_each(p)]
    pictures = pictures[: len(infotexts)]
    return pictures, infotexts[: len(pictures)]


def _masks_behind_each(p: Any) -> int:
    if getattr(p, "mask_for_overlay", None) is None:
        return 0
    with facts.overridden(p):
        return sum(bool(facts.option(name, False)) for name in ("return_mask", "return_mask_composite"))


def tell(done: Any, account: dict[str, Any]) -> None:
    """Put an account into the host's result, where clients of the API find it (``info``): they see no comments."""
    done.extra_generation_params = {**(getattr(done, "extra_generation_params", None) or {}), ACCOUNT_KEY: account}


def save(p: Any, title: str, picture: Any, folder: str, name: str, **more: Any) -> str | None:
    """Save a picture as the host does, ``more`` being what its `save_image` is given. A sentence by ``title`` when that fails: the picture
    is shown all the same."""
    try:
        images.save_image(picture, folder, name, **more, p=p)
    except Exception as error:
        errors.display(error, title)
        return f"A picture could not be saved: {in_words(error)}."
    return None


def save_sheet(p: Any, title: str, sheet: Any, name: str, info: str, prompt: Any, seed: Any) -> str | None:
    """Give a sheet its PNG info, and save it where, how and if the host saves grids. A sentence when that fails."""
    with facts.overridden(p):
        if facts.option("enable_pnginfo", True):
            sheet.info["parameters"] = info
        if not facts.option("grid_save", False) or getattr(p, "do_not_save_grid", False):
            return None
        kind = facts.option("grid_format", "png")
        return save(p, title, sheet, p.outpath_grids, name, extension=kind, prompt=prompt, seed=seed, info=info, grid=True)
