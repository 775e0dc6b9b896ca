"""What a forecast saves on a batch in which one picture needs more calls than the others: `python benchmarks/uneven_batch.py`.

Every picture is drawn alone first, with Forecast, and its calls are counted. The one with the most is then drawn in one batch with three
usual ones, plain and with Forecast, by turns. Printed are the calls of the four alone, the rows that ran in the batch, the ratio of both
times, and how far the batch's pictures are from those drawn alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main(argv: list[str] | None = None) -> int:
    from lib_accel.cli.drawing import add_pass_arguments, add_sampler_argument, open_for_drawing

    parser = argparse.ArgumentParser(description="What a forecast saves on a batch in which one picture needs more calls.")
    parser.add_argument("--count", type=int, default=32, help="pictures to choose from (default 32)")
    parser.add_argument("--size", type=int, default=256, help="pixels a side, a multiple of 8 (default 256)")
    parser.add_argument("--seed", type=int, default=100, help="of the prompts and of the first picture (default 100)")
    parser.add_argument("--level", default="middle", choices=("careful", "middle", "fast", "fastest"))
    parser.add_argument("--rounds", type=int, default=3, help="of both, by turns (default 3)")
    add_sampler_argument(parser)
    add_pass_arguments(parser, "uneven-batch", "nothing")
    parser.set_defaults(sampler="DPM++ 2M Karras", guidance=7.0)
    args = parser.parse_args(argv)
    pipeline, what = open_for_drawing(args)
    print(f"{what}, {args.sampler}, {args.steps} steps, CFG scale {args.guidance:g}, {args.size} pixels, level {args.level}")
    print(measure(pipeline, args))
    return 0


def measure(pipeline: Any, args: argparse.Namespace) -> str:
    """The sentence that says what came out."""
    import numpy as np
    import torch

    from lib_accel import Forecast, accelerated
    from lib_accel.sample.captions import held_out_prompts

    prompts = held_out_prompts(args.count, args.seed)

    def draw(indices: list[int], fast: bool) -> tuple[Any, float, dict[str, Any]]:
        given = {
            "prompt": [prompts[index] for index in indices],
            "generator": [torch.Generator().manual_seed(args.seed + index) for index in indices],
        }
        with accelerated(pipeline, Forecast(level=args.level)) if fast else nullcontext() as accelerator:
            begin = time.perf_counter()
            pictures = pipeline(
                **given, num_inference_steps=args.steps, guidance_scale=args.guidance, height=args.size, width=args.size, output_type="np"
            ).images
            seconds = time.perf_counter() - begin
            return pictures, seconds, accelerator.report().as_dict() if fast else {}

    alone = {index: draw([index], True) for index in range(args.count)}
    calls = {index: report["calls_run"] for index, (_, _, report) in alone.items()}
    by_calls = sorted(calls, key=calls.get)
    middle = len(by_calls) // 2
    chosen = [by_calls[-1], *by_calls[middle - 1 : middle + 2]]
    ratios, report, pictures = [], {}, None
    for _ in range(args.rounds):
        _, plain, _ = draw(chosen, False)
        pictures, fast, report = draw(chosen, True)
        ratios.append(plain / fast)
    apart = max(float(np.abs(pictures[place] - alone[index][0][0]).max()) for place, index in enumerate(chosen))
    return (
        f"calls alone: {', '.join(str(calls[index]) for index in chosen)} of {args.steps}; in one batch {report['rows_run']} of "
        f"{report['rows']} rows run in {report['calls_run']} calls: {statistics.median(ratios):.2f}x as fast; largest difference "
        f"to the same pictures alone {255 * apart:.2f} of 255."
    )


if __name__ == "__main__":
    sys.exit(main())
