"""What a forecast saves on a diffusion transformer: `python benchmarks/served_calls.py --size 512 --steps 25`.

A FluxPipeline with a random transformer of about 50 million parameters really draws latents, plain and with a fixed forecast (17 of 25
calls run), by turns. Printed are the ratio of both times, and what a step costs whose call is served. Weights do not matter for time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# FluxTransformer2DModel's settings that differ from its own.
SHAPE = {"num_layers": 3, "num_single_layers": 6, "attention_head_dim": 64, "num_attention_heads": 8, "axes_dims_rope": (16, 24, 24)}
TEXT, TOKENS = 4096, 64


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What a forecast saves on a diffusion transformer.")
    parser.add_argument("--size", type=int, default=512, help="pixels a side, a multiple of 16 (default 512)")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3, help="of both, by turns (default 3)")
    parser.add_argument("--every", type=int, default=2, help="behind the warm-up every such step runs (default 2)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    args = parser.parse_args(argv)
    result = measure(args)
    print(sentence(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every draw, the ratio, and the seconds of run and of served steps."""
    import torch

    from lib_accel import Forecast, accelerated
    from lib_accel.cli.measuring import machine

    if args.threads:
        torch.set_num_threads(args.threads)
    pipe = pipeline(args.device, getattr(torch, args.dtype))
    draw(pipe, args, steps=2)
    plain, fast, run, served, report = [], [], [], [], {}
    spent: dict[str, list[float]] = {"plain": [], "forecast": []}
    for _ in range(args.rounds):
        begin = time.process_time()
        seconds, _ = draw(pipe, args)
        plain.append(seconds)
        spent["plain"].append(time.process_time() - begin)
        with accelerated(pipe, Forecast(every=args.every)) as accelerator:
            begin = time.process_time()
            seconds, by_step = draw(pipe, args)
        fast.append(seconds)
        spent["forecast"].append(time.process_time() - begin)
        report = accelerator.report().as_dict()
        steps = {step for one in report["methods"][0]["served"] for step in one["steps"]}
        # The first has no step before it to be timed from.
        run += [value for step, value in by_step.items() if step and step not in steps]
        served += [by_step[step] for step in sorted(steps)]
    return {
        "machine": machine(args.device),
        "parameters": sum(parameter.numel() for parameter in pipe.transformer.parameters()),
        "settings": {"size": args.size, "steps": args.steps, "every": args.every, "dtype": args.dtype, "rounds": args.rounds},
        "calls": report["unet_calls"],
        "calls_run": report["calls_run"],
        "plain_s": plain,
        "forecast_s": fast,
        "processor_s": spent,
        "processor_ratio": statistics.median(one / other for one, other in zip(*spent.values())),
        "ratio": statistics.median(one / other for one, other in zip(plain, fast)),
        "run_step_s": statistics.median(run),
        "served_step_s": statistics.median(served),
    }


def sentence(result: dict[str, Any]) -> str:
    run, served = (1000 * result[name] for name in ("run_step_s", "served_step_s"))
    return (
        f"{result['parameters'] / 1e6:.0f} million parameters, {result['settings']['size']} pixels: {result['calls_run']} of "
        f"{result['calls']} calls run, {result['ratio']:.2f}x as fast ({result['processor_ratio']:.2f}x by "
        f"processor time); a step that runs takes {run:.1f} ms, one that is served "
        f"{served:.2f} ms ({100 * served / run:.2f} %)."
    )


def pipeline(device: str, dtype: Any) -> Any:
    """A FluxPipeline of a random transformer alone: texts are given, latents returned."""
    import diffusers
    import torch

    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(joint_attention_dim=TEXT, guidance_embeds=True, **SHAPE).eval().to(device, dtype)
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = diffusers.FluxPipeline(scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), transformer=transformer, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, args: argparse.Namespace, steps: int | None = None) -> tuple[float, dict[int, float]]:
    """Seconds of one picture's latents, and of every step but the first, by its index."""
    import torch

    device, dtype = pipe.transformer.device, pipe.transformer.dtype
    ends: list[float] = []

    def ended(pipe: Any, index: int, timestep: Any, values: dict) -> dict:
        _wait(device)
        ends.append(time.perf_counter())
        return values

    seeded = torch.Generator().manual_seed(1)
    text = torch.randn(1, TOKENS, TEXT, generator=seeded).to(device, dtype)
    pooled = torch.randn(1, 768, generator=seeded).to(device, dtype)
    given = {"prompt_embeds": text, "pooled_prompt_embeds": pooled, "height": args.size, "width": args.size, "output_type": "latent"}
    _wait(device)
    start = time.perf_counter()
    pipe(**given, num_inference_steps=steps or args.steps, generator=seeded, callback_on_step_end=ended)
    _wait(device)
    seconds = time.perf_counter() - start
    return seconds, {index: now - before for index, (before, now) in enumerate(itertools.pairwise(ends), start=1)}


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
