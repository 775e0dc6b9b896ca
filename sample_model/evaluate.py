"""How well a sample model draws what prompts say, on combinations that its training never saw.

    python -m sample_model.evaluate --out runs/evaluation            # the shipped model
    python -m sample_model.evaluate --model runs/diffusion/model --size 512 --sampler "DPM++ 2M Karras" --out runs/evaluation
    python -m sample_model.evaluate --model runs/flow/model --out runs/evaluation          # of train_flow

Half of the prompts ask for one object, half for two; every prompt names the background; prompts and seeds are fixed.
Prints a table; writes evaluation.json, and grid.png with the first pictures.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from lib_accel.cli.drawing import check_pass, check_side
from lib_accel.cli.errors import CommandError
from lib_accel.cli.models import open_pipeline
from lib_accel.cli.outputs import prepare_folder
from lib_accel.cli.passes import asked
from lib_accel.cli.processes import Processes, is_first, wait_for_first
from lib_accel.cli.samplers import SAMPLERS, use_sampler
from lib_accel.core.sites import find_unet
from lib_accel.sample import DEFAULT_GUIDANCE, DEFAULT_SIZE, DEFAULT_STEPS, captions, checker
from sample_model.attention import FluxTrainingAttention, TrainingAttention

# Shares to reach, for pictures whose shorter side has fewer than 384 pixels, and for larger ones.
GOALS = {"background": 0.95, "colour": 0.95, "shape": 0.85, "both objects": 0.70}
LARGE_GOALS = {"background": 0.95, "colour": 0.93, "shape": 0.80, "both objects": 0.60, "all right": 0.75}
SHOWN = 48  # pictures in the grid
MOST = 100_000  # pictures, and pictures at once


def summarise(verdicts: list) -> dict:
    """Shares of right answers: over pictures (background, relation, all right), objects, and two-object pictures."""
    flat = {
        name: [value for verdict in verdicts for value in getattr(verdict, name)] for name in ("colours", "shapes", "textures", "sizes")
    }
    pairs = [verdict for verdict in verdicts if len(verdict.shapes) == 2]
    answers = {
        "background": [verdict.background for verdict in verdicts if verdict.background is not None],
        "colour": flat["colours"],
        "shape": flat["shapes"],
        "texture": flat["textures"],
        "size": flat["sizes"],
        "both objects": [verdict.objects for verdict in pairs],
        "relation": [verdict.relation for verdict in pairs if verdict.relation is not None],
        "all right": [verdict.right for verdict in verdicts],
    }
    return {name: {"share": float(np.mean(values)), "of": len(values)} for name, values in answers.items() if values}


def draw(pipeline, prompts: list, steps: int, guidance: float, size: tuple[int, int], seed: int, batch: int):
    """Yield the pictures of all prompts in order, as uint8 arrays; picture i is drawn from the seed `seed + i`.

    size: (height, width) in pixels.
    """
    import torch

    # Latents are an eighth of the side: other sizes have no picture of their own.
    height, width = (max(64, round(side / 8) * 8) for side in size)
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        given = asked(pipeline, part[0], steps, guidance, height) | {"prompt": part, "width": width, "output_type": "np"}
        given["generator"] = [torch.Generator().manual_seed(seed + start + offset) for offset in range(len(part))]
        if "negative_prompt" in given:
            given["negative_prompt"] = [given["negative_prompt"]] * len(part)
        pictures = pipeline(**given).images
        yield from (np.clip(pictures, 0, 1) * 255 + 0.5).astype(np.uint8)


def save_grid(pictures: list, path: Path, columns: int = 8) -> None:
    """Put pictures of one size side by side into one file."""
    from PIL import Image

    pictures = pictures[: len(pictures) // columns * columns] or pictures
    columns = min(columns, len(pictures))
    rows = [np.concatenate(pictures[start : start + columns], axis=1) for start in range(0, len(pictures), columns)]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path)


def add_arguments(parser: argparse.ArgumentParser, holds: str, batch: int) -> None:
    """What evaluations take: the model, the pass, the machine. holds: what the folder --out is for. batch: pictures at once by default."""
    parser.add_argument("--model", type=Path, help="diffusers folder (default: the shipped model)")
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {holds}")
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS)
    parser.add_argument("--guidance", type=float, default=DEFAULT_GUIDANCE)
    parser.add_argument(
        "--size", type=int, default=DEFAULT_SIZE, help="height in pixels, a multiple of 8, and the width unless --width is given"
    )
    parser.add_argument("--width", type=int, help="in pixels, a multiple of 8")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts; what is drawn from prompt i has the noise of seed + i")
    parser.add_argument("--batch", type=int, default=batch, help="pictures drawn at once")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="bfloat16: autocast, faster on new processors"
    )


def parsed(parser: argparse.ArgumentParser, argv: list | None) -> argparse.Namespace:
    """The options. One sentence, and the program ends, for what would spoil the work at its end: sizes, counts, a folder to write to."""
    options = parser.parse_args(argv)
    try:
        check_pass(options, [options.size], count=MOST, batch=MOST)
        if options.width is not None:
            check_side(options.width, "--width")
        prepare_folder("--out", options.out)
    except CommandError as error:
        parser.error(str(error))
    return options


def _pass(options: argparse.Namespace) -> tuple[int, float, tuple[int, int]]:
    return options.steps, options.guidance, (options.size, options.width or options.size)


def main(argv: list | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=400, help="pictures")
    parser.add_argument("--sampler", choices=tuple(SAMPLERS), help="(default: the model's own)")
    add_arguments(parser, "evaluation.json and grid.png", batch=8)
    options = parsed(parser, argv)

    import torch

    processes = Processes(options.device)
    pipeline = open_pipeline(options.model, None, processes.device, torch.float32)[0]
    pipeline.set_progress_bar_config(disable=True)
    use_sampler(pipeline, options.sampler)
    if str(processes.device) == "cpu":
        is_unet = hasattr(pipeline, "unet")
        find_unet(pipeline).set_attn_processor(TrainingAttention() if is_unet else FluxTrainingAttention())
    prompts = captions.held_out_prompts(options.count, options.seed)
    shown, began = [], time.monotonic()
    verdicts: list = []
    with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=options.precision == "bfloat16"):
        for start in processes.part(range(0, len(prompts), options.batch)):
            part = prompts[start : start + options.batch]
            for prompt, picture in zip(part, draw(pipeline, part, *_pass(options), options.seed + start, options.batch)):
                verdicts.append(checker.judge(picture, captions.parse(prompt)))
                if len(shown) < SHOWN:
                    shown.append(picture)
    seconds = time.monotonic() - began
    verdicts, shown = processes.gathered(verdicts), processes.gathered(shown)[:SHOWN]
    if is_first():
        write(prompts, verdicts, shown, options, processes, seconds)
    wait_for_first()
    return 0


def write(prompts: list, verdicts: list, shown: list, options: argparse.Namespace, processes: Processes, seconds: float) -> None:
    """Print and keep what was found. seconds: of all pictures."""
    summary = summarise(verdicts)
    drawn = f"{options.width or options.size}x{options.size}, {options.sampler or 'the sampler of the model'}"
    print(f"{len(prompts)} pictures, {drawn}, {options.steps} steps, guidance {options.guidance}, {seconds / len(prompts):.2f} s each")
    goals = GOALS if min(_pass(options)[2]) < 384 else LARGE_GOALS
    for name, entry in summary.items():
        goal = f"   goal {goals[name]:.0%}" if name in goals else ""
        print(f"{name:14s} {entry['share']:6.1%}  of {entry['of']}{goal}")
    save_grid(shown, options.out / "grid.png")
    settings = {name: getattr(options, name) for name in ("count", "steps", "guidance", "size", "width", "sampler", "seed", "precision")}
    settings["processes"] = processes.as_dict()
    answers = [{"prompt": prompt, "right": verdict.right} for prompt, verdict in zip(prompts, verdicts)]
    report = {"settings": settings, "summary": summary, "seconds_per_picture": seconds / len(prompts), "pictures": answers}
    (options.out / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
