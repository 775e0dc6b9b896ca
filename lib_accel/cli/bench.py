"""`bench`: U-Net calls with and without methods, in turn, in one process, against PyTorch's scaled-dot-product attention."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..api import accelerated
from ..methods import AgentAttention, TokenMerging
from .architectures import ARCHITECTURES, build_unet, unet_inputs

WARM_UP_SIZE = 256
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", choices=ARCHITECTURES, default="sd15", help="shape of the U-Net (random weights)")
    parser.add_argument("--backend", choices=("ldm", "diffusers"), default="diffusers", help="whose U-Net class")
    parser.add_argument("--size", type=int, nargs="+", default=[512], help="pixels a side, multiples of 64")
    parser.add_argument("--batch", type=int, default=2, help="rows of a U-Net call (2: one guided picture)")
    parser.add_argument("--runs", type=int, default=5, help="counted calls of each variant")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["plain", "agent", "merging"], help="what to time")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--json", type=Path, help="also write the results there")


def run(args: argparse.Namespace) -> int:
    if args.threads:
        torch.set_num_threads(args.threads)
    unet = build_unet(args.arch, args.backend).to(args.device, DTYPES[args.dtype])
    rows = []
    with class_level_sdpa() if args.backend == "ldm" else nullcontext():
        for size in args.size:
            inputs = partial(unet_inputs, args.arch, args.backend, batch=args.batch, dtype=DTYPES[args.dtype], device=args.device)
            # A GPU chooses its kernels by size; a processor only needs its code and memory warmed.
            warm_up = inputs(size=size if args.device != "cpu" else min(size, WARM_UP_SIZE))
            rows += measure(unet, inputs(size=size), warm_up, {name: VARIANTS[name] for name in args.variants}, args.runs, size)
    result = {"settings": {k: str(v) for k, v in vars(args).items()}, "machine": machine(), "rows": rows}
    print(table(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def measure(unet: nn.Module, call: Callable, warm_up: Callable, variants: dict[str, Callable], runs: int, size: int) -> list[dict]:
    """Time ``call`` under ``variants`` in turn, ``runs`` times after one uncounted ``warm_up`` each. A row of numbers per variant."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    accounts: dict[str, str] = {}
    with torch.no_grad():
        for turn in range(runs + 1):
            for name, variant in variants.items():
                work = call if turn else warm_up
                with variant(unet) as account:
                    spent = timed(partial(work, unet))
                    accounts[name] = str(account.report()) if hasattr(account, "report") else ""
                if turn:
                    seconds[name].append(spent)
                    print(f"  {size} px, turn {turn} of {runs}: {name} {spent:.2f} s", flush=True)
    best = {name: min(times) for name, times in seconds.items()}
    first = next(iter(variants))
    return [
        {
            "size": size,
            "variant": name,
            "seconds": times,
            "min": best[name],
            "median": statistics.median(times),
            "ratio_of_min": best[first] / best[name],
            "ratio_of_median": statistics.median(seconds[first]) / statistics.median(times),
            "spread": (max(times) - best[name]) / best[name],
            "account": accounts[name],
        }
        for name, times in seconds.items()
    ]


def timed(work: Callable) -> float:
    """Seconds of ``work``, to the end of what it started on a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


@contextmanager
def class_level_sdpa() -> Iterator[None]:
    """LDM's CrossAttention on scaled-dot-product attention, put in at class level as the WebUI does."""
    from ldm.modules.attention import CrossAttention

    def forward(self, x, context=None, mask=None, **kwargs):
        context = x if context is None else context
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.to_q(x), self.to_k(context), self.to_v(context)))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(out.transpose(1, 2).flatten(2))

    before = CrossAttention.forward
    CrossAttention.forward = forward
    try:
        yield
    finally:
        CrossAttention.forward = before


@contextmanager
def _tomesd(unet: nn.Module) -> Iterator[None]:
    import tomesd

    # tomesd knows a diffusers U-Net as it is, an LDM one only inside its model.
    model = unet
    if not hasattr(unet, "down_blocks"):
        model = nn.Module()
        model.model = nn.Module()
        model.model.diffusion_model = unet
    tomesd.apply_patch(model, ratio=0.5)
    try:
        yield
    finally:
        tomesd.remove_patch(model)


@contextmanager
def _no_self_attention(unet: nn.Module) -> Iterator[None]:
    """The limit of whatever spares self-attention: its layers return their input."""
    with ExitStack() as stack:
        for name, layer in unet.named_modules():
            if name.endswith(".attn1"):
                layer.forward = lambda x, *args, **kwargs: x
                stack.callback(layer.__dict__.pop, "forward")
        yield


def _methods(*methods) -> Callable[[nn.Module], AbstractContextManager]:
    return lambda unet: accelerated(unet, *methods, auto=False)


VARIANTS: dict[str, Callable[[nn.Module], AbstractContextManager]] = {
    "plain": lambda unet: nullcontext(),
    "agent": _methods(AgentAttention(ratio=0.4, agent_ratio=0.95, sx=4, sy=4, window=(0, 1))),
    "merging": _methods(TokenMerging(ratio=0.5)),
    "merging-per-block": _methods(TokenMerging(ratio=0.5, plan="block")),
    "tomesd": _tomesd,
    "no-self-attention": _no_self_attention,
}


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    return {
        "date": datetime.date.today().isoformat(),
        "device": device,
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def table(result: dict) -> str:
    """The results as a Markdown table; the ratio is the first variant's time over this one's."""
    s, m = result["settings"], result["machine"]
    lines = [
        f"{s['arch']} ({s['backend']}), batch {s['batch']}, {s['dtype']}; "
        f"{m['device']}, {m['threads']} threads, torch {m['torch']}, {m['date']}",
        "",
        "| size | variant | min s | median s | spread | ratio (min) | ratio (median) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['size']} | {row['variant']} | {row['min']:.2f} | {row['median']:.2f} | {row['spread']:.0%} "
            f"| {row['ratio_of_min']:.2f} | {row['ratio_of_median']:.2f} |"
        )
    return "\n".join(lines)
