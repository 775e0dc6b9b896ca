"""Pictures in rows and columns, with labels above and beside them."""

from __future__ import annotations

import textwrap
from typing import Any

from PIL import Image, ImageDraw

from .pictures import FONT_SIZE, MARGIN, _font

LABEL = 190


def lattice(columns: list[str], rows: list[tuple[str, list[Any]]], footer: list[str]) -> Image.Image:
    """``rows`` of (label, pictures or None for empty places) under ``columns`` of labels; ``footer`` lines below. Pictures of one size."""
    font = _font(FONT_SIZE)
    line = font.getbbox("Ag")[3] + 5
    width, height = next(picture.size for _, pictures in rows for picture in pictures if picture is not None)
    letters = font.getlength("abcdefghij klmnop") / 17
    heads = [textwrap.wrap(text, max(12, int(width / letters))) for text in columns]
    top = MARGIN + line * max(1, max(map(len, heads)))
    whole = LABEL + len(columns) * (width + MARGIN) + MARGIN
    foot = [part for text in footer for part in textwrap.wrap(text, max(20, int((whole - 2 * MARGIN) / letters)))]
    image = Image.new("RGB", (whole, top + len(rows) * (height + MARGIN) + line * len(foot) + MARGIN), "white")
    draw = ImageDraw.Draw(image)
    for column, texts in enumerate(heads):
        for number, text in enumerate(texts):
            draw.text((LABEL + column * (width + MARGIN), MARGIN // 2 + number * line), text, fill="black", font=font)
    for row, (label, pictures) in enumerate(rows):
        y = top + row * (height + MARGIN)
        for number, text in enumerate(textwrap.wrap(label, int((LABEL - MARGIN) / letters))):
            draw.text((MARGIN, y + number * line), text, fill="black", font=font)
        for column, picture in enumerate(pictures):
            if picture is not None:
                image.paste(picture, (LABEL + column * (width + MARGIN), y))
    for number, text in enumerate(foot):
        draw.text((MARGIN, image.height - MARGIN // 2 - line * (len(foot) - number)), text, fill=(90, 90, 90), font=font)
    return image
