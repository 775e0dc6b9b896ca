"""Grids of pictures with legends. Pure: takes and gives PIL pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

GAP = 8
FONT_SIZE = 15
# Of a column: legends need some room.
LEAST = 160
PAPER, INK, GREY = (255, 255, 255), (20, 20, 20), (110, 110, 110)
MISSING = (225, 225, 225)

Font = Callable[[int], Any]


def own_font(size: int) -> Any:
    """Pillow's own, of ``size`` where it has sizes."""
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Before Pillow 10.1.
        return ImageFont.load_default()


def grid(
    rows: Sequence[Sequence[Any]],
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    title: str = "",
    captions: Callable[[int, int], str] = lambda row, column: "",
    footer: Sequence[str] = (),
    font: Font = own_font,
    size: int | None = FONT_SIZE,
    missing: tuple[int, int, int] = MISSING,
    least: int = LEAST,
) -> Image.Image:
    """The pictures of ``rows`` (None: an empty place, ``missing``), with ``columns`` above and ``labels`` beside them, ``title`` on top.

    captions: (row, column) -> a text below that picture. footer: lines below all. font: size -> a PIL font. size: of the letters; None: by
    the size of the pictures. least: width of a column. All texts are wrapped, none is cut.
    """
    shown = [picture for row in rows for picture in row if picture is not None]
    width, height = max(least, *(picture.width for picture in shown)), max(picture.height for picture in shown)
    face = font(size or max(14, (width + height) // 34))
    line, across = face.getbbox("Ag")[3] + 4, max(map(len, rows))
    beside = max((_longest(label.split(), face) for label in labels), default=0)
    beside = min(max(beside, width // 3), width) + 2 * GAP if any(labels) else GAP
    whole = beside + across * (width + GAP)
    heads = [wrapped(column, face, width) for column in columns]
    sides = [wrapped(label, face, beside - 2 * GAP) for label in labels] or [[]] * len(rows)
    top = wrapped(title, face, whole - 2 * GAP)
    foot = [part for text in footer for part in wrapped(text, face, whole - 2 * GAP)]
    notes = [[wrapped(captions(r, c), face, width) for c in range(len(row))] for r, row in enumerate(rows)]
    below = [line * max(map(len, row)) for row in notes]
    heights = [max(height + under, line * len(side)) + GAP for under, side in zip(below, sides)]
    above = GAP + line * len(top) + line * max(map(len, heads), default=0) + GAP // 2
    sheet = Image.new("RGB", (whole, above + sum(heights) + (line * len(foot) + GAP if foot else 0)), PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, top, (GAP, GAP), line, face, INK)
    for c, head in enumerate(heads):
        # Next to the picture, whatever the others' length.
        _write(draw, head, (beside + c * (width + GAP), above - GAP // 2 - line * len(head)), line, face, INK)
    y = above
    for r, row in enumerate(rows):
        _write(draw, sides[r], (GAP, y + max(0, (height - line * len(sides[r])) // 2)), line, face, INK)
        for c, picture in enumerate(row):
            left = beside + c * (width + GAP)
            if picture is None:
                draw.rectangle((left, y, left + width - 1, y + height - 1), fill=missing)
            else:
                sheet.paste(picture.convert("RGB"), (left + (width - picture.width) // 2, y + (height - picture.height) // 2))
            _write(draw, notes[r][c], (left, y + height), line, face, GREY)
        y += heights[r]
    _write(draw, foot, (GAP, y), line, face, GREY)
    return sheet


def side_by_side(
    cells: Sequence[tuple[Image.Image, Sequence[str]]], footer: Sequence[str], font: Font = own_font, title: str = ""
) -> Image.Image:
    """Pictures in a row, the lines of each below it, ``footer`` lines below all of them, ``title`` above."""
    lines = ["\n".join(texts) for _, texts in cells]
    return grid(
        [[picture for picture, _ in cells]], title=title, captions=lambda row, column: lines[column], footer=footer, font=font, least=300
    )


def wrapped(text: str, face: Any, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` pixels; a word that is longer is divided."""
    lines: list[str] = []
    for paragraph in _spelled(text, face).splitlines():
        first = len(lines)
        for word in paragraph.split():
            joined = f"{lines[-1]} {word}" if len(lines) > first else word
            if len(lines) > first and face.getlength(joined) <= width:
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
    return int(max((face.getlength(_spelled(word, face)) for word in words), default=0)) + 1


def _spelled(text: str, face: Any) -> str:
    """``text``, with letters that ``face`` fails on as Python spells them: Pillow's own bitmaps are those of Latin-1."""
    return text.encode("latin-1", "backslashreplace").decode("latin-1") if isinstance(face, ImageFont.ImageFont) else text


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[str], at: tuple[int, int], line: int, face: Any, ink: tuple[int, int, int]) -> None:
    for number, text in enumerate(lines):
        draw.text((at[0], at[1] + number * line), text, fill=ink, font=face)
