"""`check MODEL`: does Accel know this model, does every method act on it, and is nothing left behind?"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..api import accelerated, is_patched
from ..backends import backend_for
from ..core.method import CALL, ROWS, STAGES, TOKENS, Method
from ..core.rows import Layout
from ..core.sites import find_unet
from ..engine.accelerator import Accelerator
from ..methods.registry import METHODS
from .check_passes import Passes, PlantedError, inspect_passes
from .inputs import UNetInputs
from .models import add_device_argument, open_pipeline

# Of the noise schedules that these models were trained with.
LAST_TIMESTEP = 999.0
# Pixels a side of the passes of transformers.
SIZE = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=Path, nargs="?", metavar="MODEL", help="a diffusers folder or a .safetensors checkpoint (default: the sample model)"
    )
    parser.add_argument("--config", type=Path, help="with a checkpoint: a diffusers folder of the same kind of model")
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    dtype = torch.float16 if args.device.startswith("cuda") else torch.float32
    pipeline, what = open_pipeline(args.model, args.config, args.device, dtype, "MODEL")
    print(f"Model: {what}.")
    unet = find_unet(pipeline)
    if backend_for(unet).whole_calls_only:
        failures = _told(lambda line: inspect_passes(Passes(pipeline, SIZE), line, traces))
    else:
        failures = inspect(unet, inputs_for(unet, args.device, dtype))
    print("All is well." if not failures else f"{failures} of these lines say FAILED.")
    return 1 if failures else 0


def _told(checks: Callable[[Callable[[bool, str], None]], None]) -> int:
    """Print a line for each check that ``checks`` tells; returns how many failed."""
    failures = 0

    def line(good: bool, text: str) -> None:
        nonlocal failures
        failures += not good
        print(f"{'ok    ' if good else 'FAILED'}  {text}")

    checks(line)
    return failures


def inspect(unet: nn.Module, call: Callable[..., torch.Tensor]) -> int:
    """Print a line for each check of ``unet``, which ``call`` runs once (at ``timestep``, if given); returns how many failed."""
    return _told(lambda line: _inspect(unet, call, line))


def _inspect(unet: nn.Module, call: Callable[..., torch.Tensor], line: Callable[[bool, str], None]) -> None:
    with torch.no_grad():
        plain = call()
        line(bool(plain.isfinite().all()), "a plain U-Net call gives finite numbers")
        before = traces(unet)
        for method in METHODS:
            line(*method_line(unet, call, method.example()))
        with accelerated(unet) as accelerator:
            line(levels_line(accelerator), f"layers by level: {describe_levels(accelerator)}")
        line(
            torch.equal(call(), plain) and traces(unet) == before,
            "after removal the output is bit-identical and no hook or attribute is left",
        )
        line(failing_call_leaves_nothing(unet, call, plain, before), "the same after an error in the middle of the U-Net")
        with accelerated(unet, METHODS[0].example(), auto=False):
            twin = copy.deepcopy(unet)
            line(not is_patched(twin) and traces(twin) == before, "a copy of an accelerated model is not accelerated")


def method_line(unet: nn.Module, call: Callable[..., torch.Tensor], method: Method) -> tuple[bool, str]:
    """Whether ``method`` acts as it declares for this, gives finite numbers, and changes what it should; and that in words."""
    declared = method.declaration
    told, total = declared.check_steps
    # Every step is another: what is served from the last one is not what would have been computed.
    timesteps = [LAST_TIMESTEP * (1 - index / total) / 2 for index in range(told)]
    plain = call(timestep=timesteps[-1])
    with accelerated(unet, method, auto=False) as accelerator:
        for index, timestep in enumerate(timesteps):
            accelerator.step(index, total, declared.check_rows or Layout.guided(2), sampler="Euler", sigmas=range(total, -1, -1))
            out = call(timestep=timestep)
    account = accelerator.report().as_dict()["methods"][0]
    good = bool(out.isfinite().all()) and torch.equal(out, plain) == declared.watches
    acted = ", ".join(f"{effect} on {n}" for effect, n in account["layers_by_effect"].items()) or "0"
    text = f"{account['method']}: {acted} of {len(accelerator.sites)} layers"
    if declared.acts_on == CALL:
        good &= bool(account["served"])
        text = f"{account['method']}: a whole step left out"
    elif declared.acts_on == ROWS:
        good &= account["evaluations_saved"] == 1
        text += f", {account['evaluations_saved']} of 2 rows left out"
    elif declared.acts_on == STAGES and account["off"]:
        # Transformers have none.
        return bool(out.isfinite().all()) and torch.equal(out, plain), f"{account['method']}: off, {account['off']}"
    elif declared.acts_on == STAGES:
        good &= account["shallow_steps"] == 1
        text += f", deep stages reused for {account['rows_shallow']} of {2 * told} rows"
    elif declared.acts_on == TOKENS:
        good &= account["layers"] > 0
    text += "".join(f"; {reason} ({n} layers)" for reason, n in account["stood_down"].items())
    if account["cache_bytes"]:
        text += f"; {account['cache_bytes'] / 2**20:.1f} MiB kept"
    return good, text + f"; largest change {float((out - plain).abs().max()):.3g}"


def levels_line(accelerator: Accelerator) -> bool:
    return bool(accelerator.sites) and all(site.level >= 0 for site in accelerator.sites)


def describe_levels(accelerator: Accelerator) -> str:
    counts = Counter(2**site.level for site in accelerator.sites)
    return ", ".join(f"{count} at 1/{factor}" for factor, count in sorted(counts.items()))


def traces(unet: nn.Module) -> list[tuple]:
    """What patches leave: each module's class, instance attributes and numbers of hooks."""
    return [
        (name, type(module), sorted(module.__dict__), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in unet.named_modules()
    ]


def failing_call_leaves_nothing(unet: nn.Module, call: Callable[[], torch.Tensor], plain: torch.Tensor, before: list[tuple]) -> bool:
    """Whether an exception raised by a layer leaves the U-Net as it was once the methods are removed."""

    def fail(*_: Any) -> None:
        raise PlantedError

    with accelerated(unet, METHODS[0].example(), auto=False) as accelerator:
        middle = accelerator.sites[len(accelerator.sites) // 2].part("attn2")
        handle = middle.register_forward_pre_hook(fail)
        try:
            call()
            return False
        except PlantedError:
            pass
        finally:
            handle.remove()
    return traces(unet) == before and torch.equal(call(), plain)


def inputs_for(unet: nn.Module, device: str, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """A function that calls a diffusers U-Net once on fixed random input of the model's own size, at most 64x64 latents."""
    own = unet.config.sample_size
    size = min(own if isinstance(own, int) else 64, 64)
    return partial(UNetInputs(unet, 8 * size, 2, dtype, device), unet)
