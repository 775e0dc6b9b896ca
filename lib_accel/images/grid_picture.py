"""A grid of pictures with legends. Pure: takes and gives PIL pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image, ImageDraw

GAP = 8
# Of a column: legends need some room.
LEAST = 160
PAPER, INK, GREY = (255, 255, 255), (20, 20, 20), (110, 110, 110)
MISSING = (225, 225, 225)


def labelled(
    rows: Sequence[Sequence[Any]],
    columns: Sequence[str],
    labels: Sequence[str],
    title: str,
    captions: Callable[[int, int], str],
    font: Callable[[int], Any],
) -> Image.Image:
    """The pictures of ``rows`` (None: a grey place), with ``columns`` above and ``labels`` beside them, and ``title`` on top.

    captions: (row, column) -> a text below that picture, empty for none. font: size -> a PIL font. All texts are wrapped, none is cut.
    """
    width = max(LEAST, *(picture.width for row in rows for picture in row if picture is not None))
    height = max(picture.height for row in rows for picture in row if picture is not None)
    face = font(max(14, (width + height) // 34))
    line = face.getbbox("Ag")[3] + 4
    beside = max((_longest(label.split(), face) for label in labels), default=0)
    beside = min(max(beside, width // 3), width) + 2 * GAP if any(labels) else GAP
    heads = [wrapped(column, face, width) for column in columns]
    sides = [wrapped(label, face, beside - 2 * GAP) for label in labels]
    whole = beside + len(columns) * (width + GAP)
    top = wrapped(title, face, whole - 2 * GAP)
    notes = [[wrapped(captions(r, c), face, width) for c in range(len(columns))] for r in range(len(rows))]
    below = [line * max(map(len, row)) for row in notes]
    heights = [max(height + under, line * len(side)) + GAP for under, side in zip(below, sides)]
    above = GAP + line * len(top) + line * max(map(len, heads)) + GAP // 2
    sheet = Image.new("RGB", (whole, above + sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, top, (GAP, GAP), line, face, INK)
    for c, head in enumerate(heads):
        left = beside + c * (width + GAP)
        # Next to the picture, whatever the others' length.
        _write(draw, head, (left, above - GAP // 2 - line * len(head)), line, face, INK)
    y = above
    for r, row in enumerate(rows):
        _write(draw, sides[r], (GAP, y + max(0, (height - line * len(sides[r])) // 2)), line, face, INK)
        for c, picture in enumerate(row):
            left = beside + c * (width + GAP)
            if picture is None:
                draw.rectangle((left, y, left + width - 1, y + height - 1), fill=MISSING)
            else:
                sheet.paste(picture.convert("RGB"), (left + (width - picture.width) // 2, y + (height - picture.height) // 2))
            _write(draw, notes[r][c], (left, y + height), line, face, GREY)
        y += heights[r]
    return sheet


def wrapped(text: str, face: Any, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` pixels; a word that is longer is divided."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and face.getlength(joined) <= width:
            lines[-1] = joined
            continue
        while word:
            count = len(word)
            while count > 1 and face.getlength(word[:count]) > width:
                count -= 1
            lines.append(word[:count])
            word = word[count:]
    return lines


def _longest(words: Sequence[str], face: Any) -> int:
    return int(max((face.getlength(word) for word in words), default=0)) + 1


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[str], at: tuple[int, int], line: int, face: Any, ink: tuple[int, int, int]) -> None:
    for number, text in enumerate(lines):
        draw.text((at[0], at[1] + number * line), text, fill=ink, font=face)
