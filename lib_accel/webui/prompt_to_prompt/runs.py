"""The host's jobs, one for each batch of a grid, and what they made."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from modules import errors, processing, shared

from ...core.errors import in_words
from ...settings.job import Settings
from ..host import distributed, facts, generators
from ..jobs import job, started
from ..jobs.account import Account
from . import controls, host_text, values
from .batch import EditedBatch
from .checking import Edits
from .grid import Cell, Plan

# What the host lists for its pictures.
LISTS = ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds")
NO_PART = "Accel took no part in the jobs, so nothing was edited: its script has to run in them."


@dataclass
class Picture:
    """One picture. seconds: its share of its batch's time. heat: word -> its map [h, w]. like: the host's lists for it. place: in its
    batch. partial: its sampling was skipped or interrupted."""

    image: Any
    infotext: str
    seconds: float
    heat: dict[Any, Any] = field(default_factory=dict)
    like: dict[str, Any] = field(default_factory=dict)
    place: int = 0
    partial: bool = False


@dataclass
class Drawn:
    """What was drawn. sources: by the number of their seed. done: the host's result of the last job. notes: sentences."""

    cells: dict[Cell, Picture] = field(default_factory=dict)
    sources: dict[int, Picture] = field(default_factory=dict)
    done: Any = None
    account: Account = field(default_factory=lambda: Account(Settings()))
    notes: list[str] = field(default_factory=list)


def draw(p: Any, edits: Edits, plan: Plan) -> Drawn:
    """Run all batches of ``plan``. ``p``'s seed is fixed, and it stays as it is. Raises only when no picture was made."""
    drawn = Drawn()
    if edits.padding[0]:
        chunks = max(stream.chunks for stream in edits.streams)
        drawn.notes.append(f"All prompts were made as long as the longest, {chunks} chunks: alone, the source draws another picture.")
    batches = plan.batches(edits.settings["at_once"])
    shared.state.job_count = len(batches)
    # Sources that are drawn again start alike; what comes later finds what one job would have left.
    begin_alike, leave = generators.kept(), None
    for number, cells in enumerate(batches, 1):
        if shared.state.interrupted or shared.state.stopping_generation:
            break
        shared.state.job = f"{controls.TITLE}: batch {number} out of {len(batches)}"
        batch, mine = EditedBatch(edits, cells), job_for(p, edits, plan, cells)
        if any(cell.control for cell in cells):
            setattr(mine, job.EDITS, batch)
        if distributed.keep_here(mine) and distributed.HERE not in drawn.notes:
            drawn.notes.append(distributed.HERE)
        run = started.begin(mine, alike=True)
        begin_alike()
        began = time.perf_counter()
        try:
            done = processing.process_images(mine)
        except Exception as error:
            if not drawn.cells:
                raise
            errors.display(error, controls.TITLE)
            drawn.notes.append(f"Batch {number} of {len(batches)} failed and ended it: {in_words(error)}.")
            break
        seconds = (time.perf_counter() - began) / (1 + len(cells))
        leave = leave or generators.kept()
        new = _take(drawn, mine, batch, done, seconds, edits, run.cut)
        if not getattr(p, "do_not_save_samples", False):
            _save(mine, new, drawn)
    if leave is not None:
        leave()
    missing = len(plan.cells()) - len(drawn.cells)
    if missing and drawn.cells:
        drawn.notes.append(f"Ended early: {missing} of {len(plan.cells())} pictures were not drawn.")
    return drawn


def job_for(p: Any, edits: Edits, plan: Plan, cells: Sequence[Cell]) -> Any:
    """A job of the host's for one batch: the source and its edits, with lists of equal seeds, so that they start from the same noise."""
    mine = copy.copy(p)
    for shared_by_copies in ("override_settings", "comments"):
        setattr(mine, shared_by_copies, dict(getattr(p, shared_by_copies, None) or {}))
    if getattr(p, "styles", None):
        mine.styles = list(p.styles)
    count, number = 1 + len(cells), cells[0].seed
    varies = getattr(p, "subseed_strength", 0) or 0
    mine.seed = [plan.seeds[number] if plan.seeds is not None else int(p.seed) + (0 if varies else number)] * count
    mine.subseed = [int(getattr(p, "subseed", 0) or 0) + (number if plan.seeds is None else 0)] * count
    mine.prompt = [edits.source, *(edits.prompts[cell.line] for cell in cells)]
    mine.batch_size, mine.n_iter = count, 1
    if getattr(mine, "hr_prompt", None):
        mine.hr_prompt = ""  # It is the source, for all pictures; the hires pass goes by their own prompts.
    if getattr(mine, "init_images", None):
        mine.init_images = list(mine.init_images[:1])
    # Pictures are saved here: the host would save each source as often as it is drawn.
    mine.do_not_save_grid = mine.do_not_save_samples = True
    told = [{}, *(_told(p, edits, cell) if cell.control else {} for cell in cells)]
    keys = dict.fromkeys(key for one in told for key in one)
    mine.extra_generation_params = {**(p.extra_generation_params or {}), **{key: [one.get(key) for one in told] for key in keys}}
    return mine


def _told(p: Any, edits: Edits, cell: Cell) -> dict[str, Any]:
    """PNG info of a cell's picture."""
    negative = host_text.taken_apart(edits.full_prompts[cell.line], p.negative_prompt, getattr(p, "styles", None))
    return controls.to_infotext(settings_of(edits, cell), edits.full_source, False, negative)


def settings_of(edits: Edits, cell: Cell) -> controls.FormValues:
    """The settings with which the script draws this cell alone."""
    line = edits.lines[cell.line]
    own = {"edits": edits.told(cell.line, cell.weights_on(line.weights), alone=True), "cross": cell.cross}
    own |= {"self": cell.self_, "threshold": cell.threshold, "blend": edits.settings["blend"]}
    if edits.streams:
        # Words of other lines are in no prompt of this one, and would be refused.
        source, stream = edits.streams[0], edits.streams[1 + cell.line]
        own["cross"] = values.windows_left(cell.cross, stream.has)
        own["blend"] = values.blend_words_left(edits.told_blend(cell.line), stream.has)
        for name in ("subtract", "heat"):
            own[name] = ", ".join(word for word in values.words(edits.settings[name]) if source.has(word) or stream.has(word))
    return {**edits.settings, **own}


def _take(drawn: Drawn, mine: Any, batch: EditedBatch, done: Any, seconds: float, edits: Edits, cut: bool) -> list[Picture]:
    """Keep what a job made. cut: its sampling was skipped or interrupted. The pictures that are new, without sources that nobody wants."""
    its_job = job.job_of(mine)
    if its_job is None and getattr(mine, job.EDITS, None) is not None:
        drawn.notes += [NO_PART] if NO_PART not in drawn.notes else []
    elif its_job is not None:
        drawn.account.settings = its_job.settings
        drawn.account.take(its_job.account)
    # What the host and other scripts told under this batch.
    own = str(its_job.account) if its_job is not None else ""
    told = [line for line in str(getattr(done, "comments", "")).splitlines() if line.strip() and line != own]
    drawn.notes += [line for line in told if line not in drawn.notes]
    if cut and shared.state.interrupted and drawn.cells:
        return []
    if cut:
        drawn.notes.append("A batch was stopped early; its pictures are unfinished.")
    drawn.done = done
    new = []
    for place, (image, text) in enumerate(list(zip(*started.pictures_of(done, mine)))[: 1 + len(batch.cells)]):
        like = {name: (getattr(done, name, None) or [None] * (place + 1))[place] for name in LISTS}
        heat = {word: maps[place] for word, maps in batch.heat.items() if place < len(maps) and bool(maps[place].any())}
        picture = Picture(image, text, seconds, heat, like, place, cut)
        earlier = drawn.sources.get(batch.cells[0].seed)
        if place > 0:
            drawn.cells[batch.cells[place - 1]] = picture
        elif earlier is not None and (cut or not earlier.partial):
            continue
        else:
            drawn.sources[batch.cells[0].seed] = picture
        if place > 0 or edits.settings["keep_source"]:
            new.append(picture)
    return new


def _save(mine: Any, pictures: Sequence[Picture], drawn: Drawn) -> None:
    """As the host saves the pictures of a job. One that cannot be saved is told, and shown all the same."""
    with facts.overridden(mine):
        if not facts.option("samples_save", False):
            return
        for picture in pictures:
            if picture.partial and not facts.option("save_incomplete_images", False):
                continue
            like, kind = picture.like, facts.option("samples_format", "png")
            names = {"seed": like["all_seeds"], "prompt": like["all_prompts"], "extension": kind}
            mine.batch_index = picture.place
            complaint = started.save(mine, controls.TITLE, picture.image, mine.outpath_samples, "", **names, info=picture.infotext)
            drawn.notes += [complaint] if complaint else []
