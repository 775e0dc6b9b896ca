"""How well prompt edits keep what should stay and change what should change, on the sample model.

    python -m sample_model.evaluate_edits --out runs/edits                  # the shipped model, 100 sources
    python -m sample_model.evaluate_edits --model runs/diffusion/model --count 10 --out runs/edits

Every source gets one edit of each kind (another shape, another colour, a texture added, another background), with control and, from the
same noise, without. Then weights on the words of an object, and local blend from the first step. Prints tables with 95 % intervals;
writes edits.json, grid.png and weights.png.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib_accel.cli.processes import Processes, is_first, wait_for_first
from lib_accel.image_editing.editing import draw_edits
from lib_accel.prompt_to_prompt import Edit, LocalBlend, Reweight, composite, feathered
from lib_accel.sample import captions, checker, load_pipeline, scenes

from .edit_tables import KINDS, SCHEDULERS, WEIGHTS, print_summary, summarise
from .evaluate import add_arguments, parsed

PLACES = {"sky": "in the sky", "night": "at night", "grass": "on grass", "sand": "on sand", "sea": "by the sea", "wall": "on a wall"}


@dataclass(frozen=True)
class Case:
    """A source prompt and its edits. edits: kind -> prompt. words: kind -> (word of the source, word of the edit)."""

    source: str
    edits: dict[str, str]
    words: dict[str, tuple[str, str]]


def random_case(rng: np.random.Generator) -> Case:
    """One object, or two of which the first is edited."""
    scene = scenes.random_scene(rng, count=1 + int(rng.random() < 0.5))
    first, *others = scene.items
    place, more = PLACES[scene.background], "".join(f" and a {other.colour} {other.shape}" for other in others)

    def other(words: tuple[str, ...], *taken: str) -> str:
        return str(rng.choice([word for word in words if word not in taken]))

    def prompt(shape: str = first.shape, colour: str = first.colour, texture: str = "", where: str = place) -> str:
        words = " ".join(filter(None, ("large", colour, texture, shape)))
        return f"a {words}{more} {where}"

    shape = other(scenes.SHAPES, *(item.shape for item in scene.items))
    colour = other(tuple(scenes.COLOURS), *(item.colour for item in scene.items))
    texture, background = other(scenes.TEXTURES, "plain"), other(scenes.BACKGROUNDS, scene.background)
    edits = {
        "shape": prompt(shape=shape),
        "colour": prompt(colour=colour),
        "texture": prompt(texture=texture),
        "background": prompt(where=PLACES[background]),
    }
    return Case(prompt(), edits, {"shape": (first.shape, shape), "colour": (first.colour, colour)})


def is_right(kind: str, verdict: checker.Verdict) -> bool:
    """Whether the picture shows what this kind of edit asked for."""
    return bool(
        {"shape": verdict.shapes, "colour": verdict.colours, "texture": verdict.textures, "background": (verdict.background,)}[kind][0]
    )


def kept(kind: str, edited: Any, source: Any) -> dict[str, float]:
    """ssim: similarity to the source outside the objects (over the objects, when the background was edited). moved: how far the largest
    object's centre moved, in sides of the picture; 0.5 when one picture has none.
    """
    from skimage.metrics import structural_similarity

    a, b = (np.asarray(picture.convert("L"), dtype=np.float64) for picture in (source, edited))
    seen = [checker.look(picture)[1] for picture in (source, edited)]
    similar = structural_similarity(a, b, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True)[1]
    near = _near([found[:1] for found in seen], a.shape)
    inside = near if kind == "background" else ~near
    moved = math.hypot(seen[0][0].x - seen[1][0].x, seen[0][0].y - seen[1][0].y) if all(seen) else 0.5
    return {"ssim": float(similar[inside].mean()) if inside.any() else 1.0, "moved": moved}


def coloured(picture: Any, colour: str) -> float:
    """Share of the picture within a fifth of the colour (worst channel): lit and shaded parts of an object of that colour."""
    values = np.asarray(picture)[..., :3].astype(np.float32) / 255
    return float((np.abs(values - np.array(scenes.COLOURS[colour], np.float32)).max(axis=2) < 0.2).mean())


def _near(objects: list[list[checker.Seen]], shape: tuple[int, int]) -> np.ndarray:
    """Where any of the objects is, with a margin."""
    y, x = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    near = np.zeros(shape, dtype=bool)
    for seen in (one for found in objects for one in found):
        near |= np.maximum(abs(x - seen.x), abs(y - seen.y)) < 1.25 * scenes.SIZES[seen.size]
    return near


class Evaluation:
    """Draws and measures. options: the command line's."""

    def __init__(self, pipeline: Any, options: argparse.Namespace) -> None:
        self.pipeline, self.options = pipeline, options
        self.records: list[dict[str, Any]] = []
        self.weights: list[dict[str, list[float]]] = []
        self.blends: list[dict[str, Any]] = []
        self.shown: list[tuple[str, list[Any]]] = []
        self.weighed: list[tuple[str, list[Any]]] = []

    def gather(self, processes: Processes) -> None:
        """Take what the other processes found, in the sources' order."""
        for name in ("records", "weights", "blends", "shown", "weighed"):
            setattr(self, name, processes.gathered(getattr(self, name)))
        self.shown, self.weighed = self.shown[: self.options.shown], self.weighed[: self.options.shown]

    def draw(self, case: Case, edits: list[Edit], seed: int, **more: Any) -> Any:
        o = self.options
        settings = {
            "steps": o.steps,
            "guidance": o.guidance,
            "width": o.width or o.size,
            "height": o.size,
            "pictures_at_once": o.batch,
        } | more
        return draw_edits(self.pipeline, case.source, edits, seed, **settings)

    def edits(self, case: Case, seed: int) -> None:
        """Every kind with control, then without, in one batch with the source."""
        o = self.options
        held = [Edit(prompt, cross_replace=o.cross, self_replace=o.self_attention) for prompt in case.edits.values()]
        free = [Edit(prompt, cross_replace=0.0, self_replace=0.0) for prompt in case.edits.values()]
        source, *pictures = self.draw(case, held + free, seed).pictures
        for place, kind in enumerate(case.edits):
            wanted = captions.parse(case.edits[kind])
            for control, picture in (("held", pictures[place]), ("free", pictures[place + len(held)])):
                right = is_right(kind, checker.judge(picture, wanted))
                self.records.append({"kind": kind, "control": control, "seed": seed, "right": right} | kept(kind, picture, source))
        if len(self.shown) < o.shown:
            self.shown.append((case.source, [source, *(p for pair in zip(pictures[: len(held)], pictures[len(held) :]) for p in pair)]))

    def weight(self, case: Case, seed: int) -> None:
        """The first object's words with every weight: how much of the picture has its colour, and whether it shows the object.

        All of its words, because this model's text encoder tells each token what its neighbours say: one word alone changes little.
        """
        colour, wanted = case.words["colour"][0], captions.parse(case.source)
        words = f"large {colour} {case.words['shape'][0]}"
        edits = [Reweight({words: weight}, cross_replace=1.0, self_replace=0.0) for weight in WEIGHTS]
        pictures = self.draw(case, edits, seed).pictures[1:]
        verdicts = [checker.judge(picture, wanted) for picture in pictures]
        shown = [float(verdict.colours[0] and verdict.shapes[0]) for verdict in verdicts]
        self.weights.append({"colour": [coloured(picture, colour) for picture in pictures], "object": shown})
        if len(self.weighed) < self.options.shown:
            self.weighed.append((f"{case.source}: {words}", pictures))

    def blend(self, case: Case, seed: int, scheduler: str) -> None:
        """Another shape, blended from the first step: what is left outside the mask."""
        import diffusers

        own = self.pipeline.scheduler
        words = case.words["shape"]
        try:
            self.pipeline.scheduler = getattr(diffusers, scheduler).from_config(own.config)
            edit = Edit(case.edits["shape"], cross_replace=self.options.cross, self_replace=0.0)
            made = self.draw(case, [edit], seed, local_blend=LocalBlend(*words, start=0.0))
        finally:
            self.pipeline.scheduler = own
        mask = made.masks[1].cpu()
        outside = (made.latents[1] - made.latents[0]).abs().cpu() * (mask == 0)
        pasted = composite(made.pictures[1], made.pictures[0], mask)
        beyond = feathered(mask, pasted.size[::-1]).numpy() == 0
        pixels = abs(np.asarray(pasted, dtype=int) - np.asarray(made.pictures[0], dtype=int))[beyond]
        self.blends.append(
            {
                "scheduler": scheduler,
                "mask": float(mask.mean()),
                "latents_outside": float(outside.max()),
                "pixels_outside": int(pixels.max()) if pixels.size else 0,
                "right": is_right("shape", checker.judge(made.pictures[1], captions.parse(case.edits["shape"]))),
            }
        )


def main(argv: list | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="sources, and so edits of every kind")
    parser.add_argument("--blends", type=int, default=20, help="sources that are also blended, with each scheduler, at most")
    parser.add_argument("--cross", type=float, default=0.8)
    parser.add_argument("--self", type=float, default=0.4, dest="self_attention")
    parser.add_argument("--shown", type=int, default=4, help="sources in grid.png")
    add_arguments(parser, "edits.json and the grids", batch=9)
    options = parsed(parser, argv)

    import torch

    with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=options.precision == "bfloat16"):
        processes = Processes(options.device)
        evaluation = evaluate(options, processes)
    if is_first():
        write(evaluation, options, processes)
    wait_for_first()
    return 0


def evaluate(options: argparse.Namespace, processes: Processes) -> Evaluation:
    """Draw and measure all sources; in the first process what all of them found."""
    evaluation = Evaluation(load_pipeline(folder=options.model, device=processes.device), options)
    rng, began = np.random.default_rng((options.seed, 7)), time.monotonic()
    cases = [random_case(rng) for _ in range(options.count)]
    for number, case in processes.part(list(enumerate(cases))):
        seed = options.seed + number
        evaluation.edits(case, seed)
        evaluation.weight(case, seed)
        if number < options.blends:
            for scheduler in SCHEDULERS:
                evaluation.blend(case, seed, scheduler)
        if is_first():
            print(f"{number + 1} of {options.count}, {time.monotonic() - began:.0f} s", flush=True)
    evaluation.gather(processes)
    return evaluation


def write(evaluation: Evaluation, options: argparse.Namespace, processes: Processes) -> None:
    """Print the tables; edits.json, grid.png and weights.png into the folder."""
    summary = summarise(evaluation.records, evaluation.weights, evaluation.blends)
    print_summary(summary)
    settings = {name: value if not isinstance(value, Path) else str(value) for name, value in vars(options).items()}
    settings["processes"] = processes.as_dict()
    report = {
        "settings": settings,
        "summary": summary,
        "records": evaluation.records,
        "weights": evaluation.weights,
        "blends": evaluation.blends,
    }
    (options.out / "edits.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    from lib_accel.images.grid import PAPER, grid

    columns = ["source", *(f"{kind}{control}" for kind in KINDS for control in ("", ", no control"))]
    weights = [f"{weight:g}" for weight in WEIGHTS]
    for heads, shown, file in ((columns, evaluation.shown, "grid.png"), (weights, evaluation.weighed, "weights.png")):
        if shown:
            labels, pictures = zip(*shown)
            grid(pictures, heads, labels, missing=PAPER).save(options.out / file)


if __name__ == "__main__":
    raise SystemExit(main())
