"""`check` for models of which only whole calls are left out: passes of their pipeline, with every method, counted from outside."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..api import accelerated, is_patched
from ..core.method import CALL, ROWS, Method
from ..core.sites import find_unet
from ..methods.registry import METHODS
from .counting import counted, watched_layer
from .passes import asked, first_of

PROMPT = "a photo of a lighthouse on a rocky coast at dusk"
# More than a few-step model is given; a method that acts does so in as many.
STEPS = 12
GUIDANCE = 4.0


class PlantedError(Exception):
    """Raised in the middle of a model."""


class Passes:
    """Passes of ``pipeline`` at ``size`` pixels a side."""

    def __init__(self, pipeline: Any, size: int) -> None:
        self.pipeline, self.model, self._size = pipeline, find_unet(pipeline), size
        pipeline.set_progress_bar_config(disable=True)

    def draw(self, steps: int = STEPS) -> torch.Tensor:
        """The latents of a pass."""
        with torch.no_grad():
            given = asked(self.pipeline, PROMPT, steps, GUIDANCE, self._size, latents=True)
            return torch.as_tensor(first_of(self.pipeline(**given)))


def inspect_passes(passes: Passes, line: Callable[[bool, str], None], traces: Callable[[nn.Module], list]) -> None:
    """Tell each check by ``line``. traces: what patches leave on a model."""
    model = passes.model
    layer = watched_layer(model, lambda: passes.draw(1))
    # The first pass leaves what diffusers keeps on its models.
    before = traces(model)
    with counted(layer) as calls:
        plain = passes.draw()
    line(bool(plain.isfinite().all()), f"a plain pass of {STEPS} steps gives finite latents, {len(calls)} transformer calls")
    for method in METHODS:
        line(*_method_line(passes, method.example(), plain, layer, len(calls)))
    untouched = torch.equal(passes.draw(), plain) and traces(model) == before
    line(untouched, "after removal the latents are bit-identical and no hook or attribute is left")
    line(_failing_pass_leaves_nothing(passes, layer, plain, before, traces), "the same after an error in the middle of the transformer")
    with accelerated(passes.pipeline, METHODS[0].example(), auto=False):
        twin = copy.deepcopy(model)
        line(not is_patched(twin) and traces(twin) == before, "a copy of an accelerated model is not accelerated")


def _method_line(passes: Passes, method: Method, plain: torch.Tensor, layer: Any, calls: int) -> tuple[bool, str]:
    """Whether ``method`` did what its account tells, and that in words: calls are counted at ``layer``."""
    with accelerated(passes.pipeline, method, auto=False) as accelerator, counted(layer) as ran:
        out = passes.draw()
    report = accelerator.report().as_dict()
    account = report["methods"][0]
    acted = bool(account["served"] or account["evaluations_saved"])
    good = bool(out.isfinite().all()) and not account["failed"] and report["calls_run"] == len(ran)
    good &= torch.equal(out, plain) != acted
    text = f"{account['method']}: {len(ran)} of {calls} transformer calls run"
    if account["evaluations_saved"]:
        text += f", {account['evaluations_saved']} rows left out"
    if not acted:
        reasons = "; ".join(dict.fromkeys(str(reason["text"]) for reason in account["reasons"]))
        # What needs layers says so; of those that do not only a reason excuses.
        good &= bool(reasons) and (method.runner().acts_inside or method.declaration.acts_on in (CALL, ROWS))
        text = f"{account['method']}: off, {reasons or 'nobody says why'}"
        return good, text
    return good, f"{text}; largest change {float((out - plain).abs().max()):.3g}"


def _failing_pass_leaves_nothing(
    passes: Passes, layer: Any, plain: torch.Tensor, before: list[tuple], traces: Callable[[nn.Module], list]
) -> bool:
    def fail(*_: Any) -> None:
        raise PlantedError

    with accelerated(passes.pipeline, METHODS[0].example(), auto=False):
        handle = layer.register_forward_pre_hook(fail)
        try:
            passes.draw(1)
            return False
        except PlantedError:
            pass
        finally:
            handle.remove()
    return traces(passes.model) == before and torch.equal(passes.draw(), plain)
