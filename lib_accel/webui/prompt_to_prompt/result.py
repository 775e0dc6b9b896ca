"""What a job of the script came to: its grids, its pictures, the line below them, as the host's result."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

from modules import images
from PIL import Image

from ...images.grid import grid as drawn_grid
from ...images.grid import own_font
from ...prompt_to_prompt import heat_picture
from ...settings.infotext import REPORT_KEY, unquoted, written
from ..host import facts
from ..jobs import started
from . import controls, host_text
from .checking import Edits
from .controls import SEED, TITLE
from .grid import Page, Plan
from .runs import LISTS, Drawn, Picture

LEAST_LETTERS = 20


def result(p: Any, edits: Edits, plan: Plan, drawn: Drawn) -> Any:
    """The grids first, then the pictures, each with its own PNG info, then heat maps. RuntimeError when there is no picture."""
    if not drawn.cells:
        raise RuntimeError(" ".join([*drawn.notes, f"{TITLE}: stopped before the first picture."]))
    settings = _as_drawn(edits, plan)
    words = [summary(edits, drawn), *drawn.notes, str(drawn.account)]
    negative = host_text.taken_apart(edits.full_source, p.negative_prompt, getattr(p, "styles", None))
    info = infotext_of_grid(next(iter(drawn.sources.values())).infotext, settings, edits.full_source, " ".join(words), negative)
    grids = []
    for page in plan.pages:
        sheet, complaint = grid_of(page, edits, drawn)
        if complaint:
            words.append(complaint)
        if sheet is not None:
            grids.append(sheet)
    shown = [*(drawn.sources.values() if settings["keep_source"] else ()), *_in_order(plan, drawn)]
    heat = [(_heat_map(one, word, picture), word, picture) for picture in shown for word, one in picture.heat.items()]
    whole = copy.copy(drawn.done)
    whole.images = [*grids, *(picture.image for picture in shown), *(image for image, _, _ in heat)]
    maps = [f"{picture.infotext}, P2P heat map: {written(word)}" for _, word, picture in heat]
    whole.infotexts = [*[info] * len(grids), *(picture.infotext for picture in shown), *maps]
    for name in LISTS:
        setattr(whole, name, [picture.like.get(name) for picture in [*shown, *(picture for _, _, picture in heat)]])
    whole.index_of_first_image = len(grids)
    whole.comments = "\n".join(words)
    whole.info = whole.infotexts[0]
    for sheet in grids:
        like = next(iter(drawn.sources.values())).like
        complaint = started.save_sheet(p, TITLE, sheet, "prompt_to_prompt", info, like.get("all_prompts"), like.get("all_seeds"))
        if complaint:
            whole.comments += f"\n{complaint}"
    started.tell(whole, drawn.account.as_dict() | {"comments": whole.comments.split("\n")})
    return whole


def summary(edits: Edits, drawn: Drawn) -> str:
    """How much was drawn."""
    used = len({cell.line for cell in drawn.cells})
    return f"{TITLE}: {_many(len(drawn.cells), 'picture')} of {_many(used, 'edit')}, {_many(len(drawn.sources), 'source')}."


def grid_of(page: Page, edits: Edits, drawn: Drawn) -> tuple[Image.Image | None, str | None]:
    """The picture of one grid, with the sources in front, and a sentence where it is too large. None: nothing to show."""
    if not any(cell in drawn.cells for row in page.cells for cell in row):
        return None, None
    page = _drawn_part(page, drawn)
    keeps, by_column = edits.settings["keep_source"], edits.settings["x"] == SEED
    rows: list[list[Picture | None]] = [[drawn.cells.get(cell) for cell in row] for row in page.cells]
    columns, labels = [value.label for value in page.columns], [value.label for value in page.rows]
    if keeps and by_column:
        rows.insert(0, [drawn.sources.get(cell.seed) for cell in page.cells[0]])
        labels.insert(0, "source")
    elif keeps:
        rows = [[drawn.sources.get(cells[0].seed), *row] for cells, row in zip(page.cells, rows)]
        columns.insert(0, "source")
    first = next(iter(drawn.cells.values())).image
    megapixels = len(rows) * len(columns) * first.width * first.height / 1e6
    most = facts.option("img_max_size_mp", 200)
    if megapixels > most:
        return None, f"No grid: it would have {megapixels:.0f} megapixels, and img_max_size_mp is {most:g}."

    def caption(row: int, column: int) -> str:
        picture = rows[row][column]
        return f"{picture.seconds:.1f} s" if picture is not None and edits.settings["times"] else ""

    pictures = [[None if picture is None else picture.image for picture in row] for row in rows]
    title = f"{edits.source}" + (f"   [{page.title}]" if page.title else "")
    return drawn_grid(pictures, columns, labels, title, caption, font=_font(), size=letters(first)), None


def _drawn_part(page: Page, drawn: Drawn) -> Page:
    """The page without rows and columns of which no picture was drawn before it was interrupted."""
    rows = [place for place, row in enumerate(page.cells) if any(cell in drawn.cells for cell in row)]
    columns = [place for place in range(len(page.columns)) if any(row[place] in drawn.cells for row in page.cells)]
    cells = tuple(tuple(page.cells[row][column] for column in columns) for row in rows)
    return replace(page, columns=tuple(page.columns[c] for c in columns), rows=tuple(page.rows[r] for r in rows), cells=cells)


def _heat_map(heat: Any, word: Any, picture: Picture) -> Image.Image:
    """A heat map over its picture, with its word below."""
    shown = heat_picture(heat, picture.image)
    return drawn_grid([[shown]], captions=lambda row, column: str(word), font=_font(), size=letters(shown), least=1)


def _font() -> Any:
    return getattr(images, "get_font", own_font)


def letters(picture: Image.Image) -> int:
    """The size of letters beside a picture: to be read where a sheet of large pictures is shown small, and beside small ones."""
    return max(LEAST_LETTERS, (picture.width + picture.height) // 34)


def infotext_of_grid(infotext: str, settings: controls.FormValues, source: str, words: str, negative: str | None = None) -> str:
    """The PNG info of a source with the script, its settings, and what came of it (clients of the API see no comments)."""
    more = {**controls.to_infotext(settings, source, True, negative), controls.RESULT_KEY: unquoted(words)}
    # That of one batch; the result tells of all.
    infotext = re.sub(rf", {REPORT_KEY}: [^,]*", "", infotext)
    return infotext + "".join(f", {key}: {value}" for key, value in more.items())


def _as_drawn(edits: Edits, plan: Plan) -> controls.FormValues:
    """With the seeds that chance gave and the texts of styles, so that the grid can be drawn again."""
    told = [edits.told(place, line.weights) for place, line in enumerate(edits.lines)]
    settings = edits.settings if edits.unstyled else {**edits.settings, "edits": "\n".join(told), "blend": edits.told_blend()}
    if plan.seeds is None:
        return settings
    return {**settings, **{f"{name}_values": ", ".join(map(str, plan.seeds)) for name in "xy" if settings[name] == SEED}}


def _in_order(plan: Plan, drawn: Drawn) -> list[Picture]:
    """The pictures as the grids show them, each once."""
    cells = dict.fromkeys(cell for page in plan.pages for row in page.cells for cell in row)
    return [drawn.cells[cell] for cell in cells if cell in drawn.cells]


def _many(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
