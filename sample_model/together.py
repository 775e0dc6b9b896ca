"""One training by several processes of a machine, each with every other row of a batch:

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m sample_model.train_diffusion ...

On a processor two processes of one thread are half as fast again as one with two threads, which wait for each other at every small layer.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import distributed

from lib_accel.cli.processes import is_first, launched

T = TypeVar("T")


class Together:
    """The processes that a launcher started; without one this process alone, for which every method does nothing."""

    def __init__(self) -> None:
        self.count, self.rank = launched(), int(os.environ.get("RANK", "0"))
        if self.count > 1 and not distributed.is_initialized():
            distributed.init_process_group("gloo")
            atexit.register(distributed.destroy_process_group)

    def part(self, rows: Any) -> Any:
        """This process's rows; all of them where there are too few for everybody."""
        return rows[self.rank :: self.count] if len(rows) >= self.count else rows

    def same(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give every process the first one's values."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), 0)

    def same_number(self, value: float) -> float:
        """The first process's number."""
        told = torch.tensor([value], dtype=torch.float64)
        self.same([told])
        return told.item()

    @torch.no_grad()
    def average(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Put the mean of all processes' slopes into ``parameters``."""
        if self.count == 1:
            return
        slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([slope.flatten() for slope in slopes])
        distributed.all_reduce(flat)
        flat /= self.count
        for parameter, slope, mean in zip(parameters, slopes, flat.split([slope.numel() for slope in slopes])):
            parameter.grad = mean.view_as(slope)

    def shares(self, costs: list) -> list[set]:
        """For each process which pieces of a work are its own, so that all of them cost about as much."""
        shares, spent = [set() for _ in range(self.count)], [0.0] * self.count
        for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
            least = spent.index(min(spent))
            shares[least].add(index)
            spent[least] += costs[index]
        return shares

    @torch.no_grad()
    def spread(self, tensors: list[torch.Tensor], shares: list[set]) -> None:
        """Give every process the others' values of what is in their `shares`."""
        if self.count == 1:
            return
        for rank, share in enumerate(shares):
            theirs = [tensors[index] for index in sorted(share)]
            if not theirs:
                continue
            flat = torch.cat([tensor.flatten() for tensor in theirs])
            distributed.broadcast(flat, rank)
            for tensor, values in zip(theirs, flat.split([tensor.numel() for tensor in theirs])):
                tensor.copy_(values.view_as(tensor))

    def first_before_others(self, make: Callable[[], T]) -> T:
        """What ``make`` returns, called by the first process before the others, who then find what it kept on disk."""
        made = make() if is_first() else None
        if self.count > 1:
            distributed.barrier()
        return made if is_first() else make()
