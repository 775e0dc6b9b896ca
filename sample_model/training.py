"""What both training scripts share: arguments, the budget that drives the schedule, the average of the weights, checkpoints."""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import torch

from lib_accel.cli.processes import is_first

from .optimizers import MuonAndAdamW
from .together import Together

LONGEST_STEP = 20.0  # seconds; a step that took longer was paused, and a pause must not eat the budget


def parse(
    parser: argparse.ArgumentParser, argv: list | None, minutes: float, rate: float, save_every: int, holds: str
) -> argparse.Namespace:
    """Add what both scripts take to ``parser``, and parse. holds: what the folder --out is for, in words; the others are defaults."""
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {holds}")
    parser.add_argument("--minutes", type=float, help=f"length in minutes of computing (default {minutes:g}, unless --steps)")
    parser.add_argument("--steps", type=int, help="length in steps instead: the same seed then gives the same weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=rate, help="highest learning rate")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--save-every", type=int, default=save_every, help="steps between two checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    options = parser.parse_args(argv)
    if options.minutes is None and options.steps is None:
        options.minutes = minutes
    return options


class Budget:
    """How far the training is, from 0 to 1: by steps, or by the minutes that steps really took.

    Steps make a run repeatable bit for bit; minutes make it fit a machine of unknown speed. Give exactly one.
    """

    def __init__(self, steps: int | None = None, minutes: float | None = None):
        if (steps is None) == (minutes is None):
            raise ValueError("give either steps or minutes, not both and not neither")
        self.steps, self.minutes = steps, minutes
        self.step, self.seconds = 0, 0.0
        self._began = None

    def tick(self) -> None:
        """Count one finished step."""
        now = time.monotonic()
        if self._began is not None:
            self.seconds += min(now - self._began, LONGEST_STEP)
        self._began = now
        self.step += 1

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0..1."""
        spent = self.step / self.steps if self.steps is not None else self.seconds / (60 * self.minutes)
        return min(spent, 1.0)

    @property
    def done(self) -> bool:
        return self.progress >= 1.0


def learning_rate(peak: float, progress: float, step: int, warm_up: int = 100) -> float:
    """Linear warm-up over the first steps, then a cosine from `peak` down to 2 % of it at progress 1."""
    return peak * min(1.0, (step + 1) / warm_up) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


class Average:
    """Exponential moving average of the modules' weights; it forgets the first, useless weights faster."""

    def __init__(self, modules: dict, decay: float):
        self.decay = decay
        self.modules = {name: copy.deepcopy(module).eval().requires_grad_(False) for name, module in modules.items()}

    @torch.no_grad()
    def update(self, modules: dict, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, module in modules.items():
            ours, theirs = list(self.modules[name].parameters()), list(module.parameters())
            torch._foreach_lerp_(ours, [parameter.detach() for parameter in theirs], 1 - decay)


def choose_device(wanted: str) -> torch.device:
    """`auto` takes the GPU when there is one; anything else is taken by its name."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def precision_for(device: torch.device) -> torch.autocast:
    """A context of bfloat16 where ``device`` computes in it; else of float32, which is faster on processors without bfloat16."""
    slow = device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=not slow)


def save_checkpoint(path: Path, modules: dict, average: Average, optimizer, budget: Budget, extra: dict) -> None:
    """Write everything that a later `--resume` needs; a run that dies while writing leaves the older file whole."""
    state = {
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "average": {name: module.state_dict() for name, module in average.modules.items()},
        "optimizer": optimizer.state_dict(),
        "step": budget.step,
        "seconds": budget.seconds,
        "extra": extra,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def lighten(path: Path, to: Path) -> None:
    """Write the checkpoint ``path`` again in less than a tenth of the room: weights in 8 bits, no averages, nothing of the optimizer, which
    `--resume` begins anew."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    modules = {name: {key: _in_bytes(value) for key, value in module.items()} for name, module in state["modules"].items()}
    torch.save({key: state[key] for key in ("step", "seconds", "extra")} | {"modules": modules}, to)


def _in_bytes(value: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Of a matrix or a filter bank whole numbers to 127 and what they count, for each output channel; anything else as it is."""
    if not value.is_floating_point() or value.ndim < 2:
        return value
    unit = (value.abs().amax(tuple(range(1, value.ndim)), keepdim=True) / 127).clamp(min=1e-12)
    return (value / unit).round().to(torch.int8), unit


def _in_full(value: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else value[0] * value[1]


def load_checkpoint(path: Path, modules: dict, average: Average, optimizer, budget: Budget) -> dict:
    """Put a checkpoint's state into the given objects and return what was saved as `extra`."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, module in modules.items():
        weights = {key: _in_full(value) for key, value in state["modules"][name].items()}
        module.load_state_dict(weights)
        average.modules[name].load_state_dict(state["average"][name] if "average" in state else weights)
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    budget.step, budget.seconds = state["step"], state["seconds"]
    return state["extra"]


class Run:
    """One training of `modules`: the optimizer of `parameters`, the budget, the average, the checkpoint that `--resume` goes on from.

    matrices: those of `parameters` that Muon changes; AdamW changes the others.
    """

    def __init__(
        self, options: argparse.Namespace, modules: dict, parameters: list, weight_decay: float, warm_up: int = 100, matrices: tuple = ()
    ):
        self.options, self.modules, self.parameters, self.warm_up = options, modules, parameters, warm_up
        self.together = Together()
        self.together.same(parameters)
        self.average = Average(modules, 0.998)
        self.optimizer = MuonAndAdamW(parameters, matrices, options.rate, weight_decay)
        self.budget = Budget(options.steps, options.minutes)
        self.checkpoint = options.out / "checkpoint.pt"
        self.began = {"step": 0, "progress": 0.0}  # of the schedule of the learning rate
        if options.resume:
            kept = load_checkpoint(self.checkpoint, modules, self.average, self.optimizer, self.budget)
            self.began |= kept.get("began", {})
        if self.optimizer.is_new:  # one that knows nothing yet begins with small steps, and a schedule of its own
            self.began = {"step": self.budget.step, "progress": self.budget.progress}

    def learn(self, loss: torch.Tensor) -> None:
        """One step of the optimizer and of the budget."""
        began = self.began["progress"]
        progress = (self.budget.progress - began) / max(1 - began, 1e-9)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.options.rate, progress, self.budget.step - self.began["step"], self.warm_up)
        self.optimizer.zero_grad()
        loss.backward()
        self.together.average(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.budget.tick()
        self.budget.seconds = self.together.same_number(self.budget.seconds)
        if is_first():
            self.average.update(self.modules, self.budget.step)

    def save_in_time(self) -> bool:
        """Write a checkpoint when it is time to, or the end; whether one was written. The first process of several writes."""
        due = is_first() and (self.budget.step % self.options.save_every == 0 or self.budget.done)
        if due:
            save_checkpoint(self.checkpoint, self.modules, self.average, self.optimizer, self.budget, {"began": self.began})
        return due

    def log(self, **values) -> None:
        """Print and keep a line of progress with `values`."""
        budget = self.budget
        if is_first():
            log_line(self.options.out / "log.jsonl", step=budget.step, minutes=budget.seconds / 60, progress=budget.progress, **values)


def log_line(path: Path, **values) -> None:
    """Print one line of progress and append it as JSON to `path`."""
    rounded = {key: round(value, 5) if isinstance(value, float) else value for key, value in values.items()}
    print("  ".join(f"{key} {value}" for key, value in rounded.items()), flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(rounded) + "\n")
