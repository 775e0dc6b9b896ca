"""How many bytes of tensors a U-Net call holds at once, without computing it: `python benchmarks/peak_memory.py --size 1024 2048`.

The call runs on torch's meta device, where tensors have shapes and no values. Attention is taken as fused: it holds its result and no map.
Weights are not counted, nor is what kernels take for themselves.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib_accel.cli.architectures import ARCHITECTURES, build_unet
from lib_accel.cli.inputs import UNetInputs
from lib_accel.cli.variants import parse_variant

MIB = 1 << 20
VARIANTS = ("plain", "downsampling:factor=2", "downsampling:factor=2+merging:ratio=0.25,matching=local", "merging:ratio=0.5", "agent")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The peak of tensors in a U-Net call, counted on the meta device.")
    parser.add_argument("--arch", choices=[name for name in ARCHITECTURES if name != "pixart"], default="sd15")
    parser.add_argument("--size", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    args = parser.parse_args(argv)
    # By way of the base class: diffusers' own `to` warns about layers to keep in float32, of which there are none.
    unet = torch.nn.Module.to(build_unet(args.arch, "diffusers", device="meta"), torch.float16)
    head = " | ".join(f"{size} px" for size in args.size)
    print(f"{args.arch}, {args.rows} rows, float16: MiB\n\n| | {head} |\n|{' --- |' * (len(args.size) + 1)}")
    for name in args.variants:
        peaks = [peak_of(unet, size, args.rows, name) / MIB for size in args.size]
        print(f"| {name} | {' | '.join(f'{peak:.0f}' for peak in peaks)} |")
    return 0


def peak_of(unet: torch.nn.Module, size: int, rows: int, name: str) -> int:
    """Bytes. name: of a variant, as for `bench`."""
    inputs = UNetInputs(unet, size, rows, torch.float16, "meta")
    with parse_variant(name).on(unet), fused(), torch.no_grad(), Held() as held:
        inputs(unet)
    return held.peak


def fused() -> Any:
    """Attention that holds no map of scores."""

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return query.new_empty((*query.shape[:-1], value.shape[-1]))

    return mock.patch("torch.nn.functional.scaled_dot_product_attention", attention)


class Held(TorchDispatchMode):
    """peak: the most bytes of storages made inside that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        given = {id(_storage(tensor)) for tensor in _tensors([args, kwargs])}
        for tensor in _tensors(out):
            storage = _storage(tensor)
            if id(storage) not in given and id(storage) not in self._known:
                self._known.add(id(storage))
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, id(storage), storage.nbytes())
        return out

    def _gone(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self.now -= size


def _storage(tensor: torch.Tensor) -> Any:
    return tensor.untyped_storage()


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


if __name__ == "__main__":
    raise SystemExit(main())
