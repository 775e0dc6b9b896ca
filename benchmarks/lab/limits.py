"""Limits of what can be won: a U-Net of which a part does nothing. Their pictures mean nothing; their times are floors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from lib_accel.core.row_slicing import cut_rows, fill_rows
from lib_accel.core.sites import find_unet


@contextmanager
def no_self_attention(model: Any) -> Iterator[None]:
    """The limit of whatever spares self-attention: its layers return their input."""
    with _returning_input(find_unet(model), ".attn1"):
        yield


@contextmanager
def no_cross_attention(model: Any) -> Iterator[None]:
    """The limit of whatever spares cross-attention: its layers return their input."""
    with _returning_input(find_unet(model), ".attn2"):
        yield


@contextmanager
def half_the_rows(model: Any) -> Iterator[None]:
    """The limit of dropping guidance all the way: the second half of the rows runs and is returned for the first half too."""
    unet = find_unet(model)
    counts: list[int] = []

    def cut(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        count = (args[0] if args else next(iter(kwargs.values()))).shape[0]
        counts.append(count)
        return cut_rows((args, kwargs), count, range(count // 2, count)) if count > 1 else (args, kwargs)

    def fill(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        count = counts.pop()
        half = count // 2
        kept = [row - half if row >= half else row for row in range(count)]
        return fill_rows(output, range(count - half), kept) if count > 1 else output

    handles = [unet.register_forward_pre_hook(cut, with_kwargs=True), unet.register_forward_hook(fill, with_kwargs=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _returning_input(unet: nn.Module, ending: str) -> Iterator[None]:
    with ExitStack() as stack:
        for name, layer in unet.named_modules():
            if name.endswith(ending):
                layer.forward = lambda x, *args, **kwargs: x
                stack.callback(layer.__dict__.pop, "forward")
        yield
