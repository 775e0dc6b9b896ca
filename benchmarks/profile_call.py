"""Where the time of a U-Net call goes, by kind of operation: `python benchmarks/profile_call.py --arch sd15 --backend ldm --size 512`.

Self time of ATen operations on the processor, as PyTorch's profiler records them, for one call of each variant after an uncounted one.
What a method spares shows in attention, what it costs in matching and moving.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# (kind, beginnings of the names of its operations); the first that fits.
KINDS = (
    ("self- and cross-attention", ("_scaled_dot_product", "_flash_attention", "scaled_dot_product", "_softmax", "softmax")),
    ("convolutions", ("convolution", "mkldnn_convolution", "_convolution", "conv2d", "_slow_conv", "thnn_conv")),
    ("linear layers", ("addmm", "mm", "linear", "mkldnn_linear")),
    ("batched products (agents, matching)", ("bmm", "baddbmm")),
    ("sorting and choosing (matching)", ("sort", "argsort", "topk", "max", "argmax", "cumsum")),
    ("gathering and scattering (merging)", ("gather", "scatter", "index", "take_along")),
    ("norms", ("native_layer_norm", "native_group_norm", "group_norm", "layer_norm")),
    ("copies", ("copy_", "cat", "clone", "contiguous", "stack", "repeat")),
    ("element by element", ("add", "mul", "div", "sub", "gelu", "silu", "sigmoid", "exp", "erf", "neg", "pow", "where", "clamp")),
)
OTHER = "other"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Where the time of a U-Net call goes, by kind of operation.")
    parser.add_argument("--arch", default="sd15")
    parser.add_argument("--backend", choices=("ldm", "diffusers"), default="diffusers")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--variants", nargs="+", default=["plain", "balanced", "fast"], help="as for bench")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    args = parser.parse_args(argv)
    result = profile(args)
    print(table(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def profile(args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds by kind of every variant, with the machine."""
    import torch

    from lib_accel.cli.architectures import build_unet
    from lib_accel.cli.measuring import machine
    from lib_accel.cli.variants import parse_variant
    from lib_accel.cli.workloads import as_hosts_run_it, single_call
    from lib_accel.settings.model_families import family_of

    if args.threads:
        torch.set_num_threads(args.threads)
    unet = build_unet(args.arch, args.backend)
    work = single_call(unet, args.size, args.batch, torch.float32, "cpu")
    times: dict[str, dict[str, float]] = {}
    with as_hosts_run_it(unet, "cpu", torch.float32), torch.no_grad():
        for text in args.variants:
            with parse_variant(text, family_of(unet)).on(unet) as accelerator:
                work(accelerator)
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
                    work(accelerator)
            spent: Counter[str] = Counter()
            for event in profiler.key_averages():
                spent[kind_of(event.key)] += event.self_cpu_time_total / 1000
            times[text] = dict(spent)
    given = {"what": f"{args.arch} ({args.backend})", "size": args.size, "batch": args.batch}
    return given | {"machine": machine("cpu"), "milliseconds": times}


def kind_of(operation: str) -> str:
    """The kind that an operation (``aten::addmm``) is counted with."""
    name = operation.removeprefix("aten::")
    return next((kind for kind, beginnings in KINDS if name.startswith(beginnings)), OTHER)


def table(result: dict[str, Any]) -> str:
    """Milliseconds and shares as Markdown, a column per variant."""
    times, m = result["milliseconds"], result["machine"]
    sums = {variant: sum(spent.values()) for variant, spent in times.items()}
    lines = [
        f"{result['what']}, {result['size']} px, batch {result['batch']}, one U-Net call; "
        f"{m['device']}, {m['threads']} threads, torch {m['torch']}, {m['date']}",
        "",
        f"| ms | {' | '.join(times)} |",
        f"| --- |{' --- |' * len(times)}",
    ]
    for kind in (*(kind for kind, _ in KINDS), OTHER):
        if any(spent.get(kind) for spent in times.values()):
            cells = [f"{spent.get(kind, 0):.0f} ({spent.get(kind, 0) / sums[variant]:.0%})" for variant, spent in times.items()]
            lines.append(f"| {kind} | {' | '.join(cells)} |")
    lines.append(f"| sum | {' | '.join(f'{total:.0f}' for total in sums.values())} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
