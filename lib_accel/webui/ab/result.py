"""What a comparison came to: numbers in words, a sheet with both pictures and their difference, and the host's result."""

from __future__ import annotations

import copy
import statistics
from typing import Any

import numpy as np
from modules import images
from PIL import Image

from ...images.grid import own_font, side_by_side
from ...images.metrics import Distance, detail_ratio, distance, tone_shift
from ...settings.infotext import unquoted
from ..jobs import started
from .runs import ACCELERATED, PLAIN, Side

KEY = "Accel A/B"
MOST_ROWS = 8


def key_of(label: str) -> str:
    """The key in the sheet's PNG info of the script's setting ``label``."""
    return f"{KEY} {label.lower()}"


def result(p: Any, sides: dict[str, Side], settings: dict[str, Any], complaints: list[str], gain: int, opts: Any) -> Any:
    """The host's result: the sheet first, then every picture of both sides with its own PNG info. RuntimeError when there is no picture."""
    having = [side for side in sides.values() if side.images]
    if not having:
        raise RuntimeError(
            "; ".join(f"{KEY}: {side.name} failed: {side.failed}" for side in sides.values() if side.failed) or f"{KEY}: stopped"
        )
    plain, accelerated = sides[PLAIN], sides[ACCELERATED]
    apart = distances(plain, accelerated)
    words = [*complaints, *times(sides), *differences(plain, accelerated, apart)]
    whole = copy.copy(having[-1].done)
    whole.images = [image for side in having for image in side.images]
    whole.infotexts = [text for side in having for text in side.infotexts]
    for name in ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds"):
        lists = [list(getattr(side.done, name, None) or [])[: len(side.images)] for side in having]
        setattr(whole, name, [item for each in lists for item in each])
    whole.comments = "\n".join(words)
    whole.index_of_first_image = 0
    if apart is not None:
        sheet, info = _sheet(sides, apart, gain, opts), infotext_of_sheet(having[-1].infotexts[0], settings, " ".join(words))
        whole.images.insert(0, sheet)
        whole.infotexts.insert(0, info)
        whole.index_of_first_image = 1
        prompt, seed = (next(iter(getattr(whole, name)), None) for name in ("all_prompts", "all_seeds"))
        complaint = started.save_sheet(p, KEY, sheet, "accel_ab", info, prompt, seed)
        if complaint:
            whole.comments += f"\n{complaint}"
    whole.info = whole.infotexts[0]
    started.tell(whole, (having[-1].account or {}) | {"comments": whole.comments.split("\n")})
    return whole


def times(sides: dict[str, Side]) -> list[str]:
    """Sentences about the times and about what did not run."""
    lines = []
    for side in sides.values():
        if side.failed:
            lines.append(f"{side.name} failed: {side.failed}.")
        if side.partial:
            lines.append(f"{side.name}: stopped early; its picture is unfinished and its time is not counted.")
        if side.seconds:
            runs = ", ".join(f"{seconds:.2f}" for seconds in side.seconds)
            lines.append(
                f"{side.name}: {statistics.median(side.seconds):.2f} s" + (f" (median of {runs})." if len(side.seconds) > 1 else ".")
            )
    ratio = ratio_of(sides)
    if ratio is not None:
        lines.append(f"Ratio {ratio:.2f}x, of whole jobs: text, sampling, decoding.")
    warm_ups = [f"{side.name} {side.warm_up:.2f} s" for side in sides.values() if side.warm_up is not None]
    if warm_ups:
        lines.append(f"Not counted, to warm up: {', '.join(warm_ups)}.")
    elif ratio is not None and any(side.warmed for side in sides.values()):
        lines.append("The warm-up runs were stopped early.")
    elif ratio is not None:
        lines.append("No warm-up: the first run of each side is counted and may include loading and the choice of kernels.")
    return lines


def ratio_of(sides: dict[str, Side]) -> float | None:
    """Plain time over accelerated time, medians; None unless both were timed."""
    seconds = [sides[name].seconds for name in (PLAIN, ACCELERATED)]
    return statistics.median(seconds[0]) / max(statistics.median(seconds[1]), 1e-9) if all(seconds) else None


def distances(plain: Side, accelerated: Side) -> list[Distance] | None:
    """How far each accelerated picture is from its plain one; None unless both sides have pictures of the same sizes."""
    pairs = list(zip(plain.images, accelerated.images))
    if not pairs or any(a.size != b.size for a, b in pairs):
        return None
    return [distance(b, a) for a, b in pairs]


def differences(plain: Side, accelerated: Side, apart: list[Distance] | None) -> list[str]:
    """Sentences about the pictures and about what Accel did."""
    lines = []
    for index, far in enumerate(apart or []):
        where = f"Picture {index + 1}" if len(apart or []) > 1 else "Pictures"
        before, after = (np.asarray(side.images[index].convert("RGB")) for side in (plain, accelerated))
        tone = ""
        if not np.array_equal(before, after):
            luminance, saturation = tone_shift(after, before)
            tone = f", luminance {luminance:+.1f}, saturation {saturation:+.1f}, detail {detail_ratio(after, before):.2f}"
        lines.append(f"{where}: {far}{tone}.")
    lines += [
        f"{side.name}: a repeat made a different picture, so this job is not reproducible." for side in (plain, accelerated) if side.varies
    ]
    if accelerated.images:
        lines.append(accelerated.line or "Accel took no part.")
    return lines


def infotext_of_sheet(infotext: str, settings: dict[str, Any], words: str) -> str:
    """The PNG info of an accelerated picture with the script, its settings and what it found."""
    more = {"Script": KEY} | {key_of(label): value for label, value in settings.items()} | {f"{KEY} result": unquoted(words)}
    return infotext + "".join(f", {key}: {value}" for key, value in more.items())


def difference_picture(picture: Image.Image, reference: Image.Image, gain: int) -> Image.Image:
    """The absolute difference, ``gain`` times as bright."""
    a, b = (np.asarray(image.convert("RGB")).astype(np.int16) for image in (picture, reference))
    return Image.fromarray(np.clip(np.abs(a - b) * gain, 0, 255).astype(np.uint8))


def _sheet(sides: dict[str, Side], apart: list[Distance], gain: int, opts: Any) -> Image.Image:
    plain, accelerated = sides[PLAIN], sides[ACCELERATED]
    width, height = plain.images[0].size
    fits = int(getattr(opts, "img_max_size_mp", 200) * 1e6 / (3 * width * height))
    rows = max(1, min(len(apart), MOST_ROWS, fits))
    columns = {
        PLAIN: plain.images[:rows],
        ACCELERATED: accelerated.images[:rows],
        "difference": [difference_picture(b, a, gain) for a, b in zip(plain.images[:rows], accelerated.images[:rows])],
    }
    ratio = ratio_of(sides)
    labels = {
        PLAIN: [_seconds(plain)],
        ACCELERATED: [_seconds(accelerated) + (f", {ratio:.2f}x as fast" if ratio else "")],
        "difference": [f"{gain} times as bright", *(str(far) for far in apart[:rows])],
    }
    cells = [(_stacked(pictures), [name, *filter(None, labels[name])]) for name, pictures in columns.items()]
    footer = [line for line in (accelerated.line, f"The first {rows} of {len(apart)} pictures." if rows < len(apart) else None) if line]
    # Pillow's own font is a small bitmap in the version that the host pins.
    return side_by_side(cells, footer, getattr(images, "get_font", own_font), _header(sides, ratio))


def _header(sides: dict[str, Side], ratio: float | None) -> str:
    """What came of it in one line; empty where a side was not timed."""
    if ratio is None:
        return ""
    plain, accelerated = (f"{statistics.median(sides[name].seconds):.2f} s" for name in (PLAIN, ACCELERATED))
    return f"{accelerated} instead of {plain}: {ratio:.2f}x as fast"


def _seconds(side: Side) -> str:
    if not side.seconds:
        return "not timed" if side.warm_up is None else f"{side.warm_up:.2f} s, the first run, which warms up"
    return f"{statistics.median(side.seconds):.2f} s" + (f", median of {len(side.seconds)}" if len(side.seconds) > 1 else "")


def _stacked(pictures: list[Image.Image]) -> Image.Image:
    stack = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)))
    top = 0
    for picture in pictures:
        stack.paste(picture.convert("RGB"), (0, top))
        top += picture.height
    return stack
