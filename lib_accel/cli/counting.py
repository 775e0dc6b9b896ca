"""How often a model ran, in whole or in part, and what that multiplied: counted from outside, since other tools do not tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..core.sites import is_transformer
from ..cost.macs import products

ATTENTION = "attn"


def counting_layer(model: nn.Module, draw: Callable[[], Any]) -> nn.Module | None:
    """The layer by which calls of ``model`` are counted: a U-Net's first; of another model, `watched_layer`."""
    return watched_layer(model, draw) if is_transformer(model) else next(model.children(), None)


def watched_layer(model: nn.Module, draw: Callable[[], Any]) -> nn.Module | None:
    """A layer of ``model`` that tells whether a call ran in whole, found while ``draw`` runs it plainly; None where there is none.

    Of the layers that run once in each call one in the middle, of attention where there is such: caches that serve blocks skip it, also
    those that run the first block.
    """
    calls, counts = [], dict[nn.Module, int]()
    names = {module: name for name, module in model.named_modules() if not list(module.children())}

    def count(module: nn.Module, *_: Any) -> None:
        counts[module] = counts.get(module, 0) + 1

    handles = [module.register_forward_hook(count) for module in names]
    handles.append(model.register_forward_hook(lambda *_: calls.append(None)))
    try:
        draw()
    finally:
        for handle in handles:
            handle.remove()
    once = [module for module, number in counts.items() if number == len(calls)]
    places = list(dict.fromkeys(filter(None, (_attention_of(names[module]) for module in once))))
    if places:
        once = [module for module in once if _attention_of(names[module]) == places[len(places) // 2]]
    return once[len(once) // 2] if once else None


def _attention_of(name: str) -> str:
    """The path of the attention that the layer ``name`` is a part of; empty where it is of none."""
    place, found, _ = name.partition(ATTENTION)
    return place if found else ""


@contextmanager
def counted(layer: nn.Module | None) -> Iterator[list[None]]:
    """An entry for every time that ``layer`` runs."""
    runs: list[None] = []
    hook = None if layer is None else layer.register_forward_hook(lambda *_: runs.append(None))
    try:
        yield runs
    finally:
        if hook is not None:
            hook.remove()


@contextmanager
def calls_of(model: nn.Module, layer: nn.Module | None) -> Iterator[list[bool]]:
    """For every call of ``model`` whether ``layer`` ran in it: one that was served in part, or whole, skips it."""
    whole: list[bool] = []

    def ran(*_: Any) -> None:
        if whole:
            whole[-1] = True

    handles = [model.register_forward_pre_hook(lambda *_: whole.append(layer is None))]
    handles += [] if layer is None else [layer.register_forward_hook(ran)]
    try:
        yield whole
    finally:
        for handle in handles:
            handle.remove()


class Weights(NamedTuple):
    """Multiply-adds of a call. whole: the mean of those in which the watched layer ran. part: of the others. None: there was none."""

    whole: float | None
    part: float | None

    def of(self, whole: int, part: int) -> float | None:
        """Of so many calls; None where calls of a kind that was not weighed are among them."""
        pairs = [(count, weight) for count, weight in ((whole, self.whole), (part, self.part)) if count]
        return None if any(weight is None for _, weight in pairs) else sum(count * weight for count, weight in pairs)


def weigh(model: nn.Module, layer: nn.Module | None, draw: Callable[[], Any]) -> Weights:
    """What the calls of ``model`` multiply while ``draw`` runs: matrix products, convolutions and attention, whoever computes them."""
    macs: list[int] = []
    handles = []
    with _Adding(macs) as adding, calls_of(model, layer) as whole:
        handles.append(model.register_forward_pre_hook(lambda *_: adding.begin()))
        # Of a call that fails nobody asks the weight; the next one begins anew.
        handles.append(model.register_forward_hook(lambda *_: adding.end()))
        try:
            draw()
        finally:
            for handle in handles:
                handle.remove()
    return Weights(*(_mean([one for one, ran in zip(macs, whole) if ran is wanted]) for wanted in (True, False)))


def _mean(numbers: list[int]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None


class _Adding(TorchDispatchMode):
    """Adds the products of every call to its place in ``macs``."""

    def __init__(self, macs: list[int]) -> None:
        super().__init__()
        self._macs, self._open = macs, False

    def begin(self) -> None:
        self._macs.append(0)
        self._open = True

    def end(self) -> None:
        self._open = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if self._open and isinstance(out, (torch.Tensor, tuple)):
            self._macs[-1] += products(function.overloadpacket.__name__, args, out)
        return out
