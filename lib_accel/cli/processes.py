"""Commands under `accelerate launch` or `torchrun`: every process takes its part of the work, the first gathers it, prints and writes.

accelerate launch --num_processes 2 -m lib_accel quality --count 400
torchrun --nproc-per-node 2 -m sample_model.evaluate --out runs/evaluation
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from .errors import CommandError

T = TypeVar("T")


def launched() -> int:
    """How many processes a launcher started; 1 without one."""
    count = os.environ.get("WORLD_SIZE", "1")
    return int(count) if count.isdecimal() else 1


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    return launched() == 1 or os.environ.get("RANK", "0") == "0"


def wait_for_first() -> None:
    """At the end of shared work: nobody ends before the first process has written.

    A launcher stops them all when one fails, also one that is done and fails while Python shuts down. Not after an error: the others may
    wait for this one.
    """
    if launched() == 1:
        return
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


class Processes:
    """All processes of a launch, or the only one without a launcher.

    device: as the command line gives it. CommandError where a launcher started several and the package accelerate is missing.
    Attributes: ``count``, how many; ``device``, this process's own; ``devices``, everybody's.
    """

    def __init__(self, device: str) -> None:
        self.count, self.device, self._state = launched(), device, None
        if self.count > 1:
            try:
                from accelerate import PartialState
            except ImportError:
                raise CommandError("several processes were launched; that needs accelerate: pip install '.[demo]'") from None
            self._state = PartialState(cpu=device == "cpu")
            atexit.register(self._state.destroy_process_group)
            if device != "cpu" and device == self._state.device.type:
                self.device = str(self._state.device)
        self.devices = self.gathered([self.device])

    def part(self, items: Sequence[T]) -> list[T]:
        """This process's items: a run of neighbours; processes take theirs in order."""
        if self._state is None:
            return list(items)
        with self._state.split_between_processes(list(items)) as part:
            return list(part)

    def gathered(self, items: list[T]) -> list[T]:
        """Everybody's items in order, in the first process; elsewhere an empty list. All have to call it."""
        if self._state is None:
            return items
        import torch.distributed

        # Pictures of all processes in every process would be too much memory.
        parts: list[Any] | None = [None] * self.count if is_first() else None
        torch.distributed.gather_object(items, parts)
        return [item for part in parts or () for item in part]

    def as_dict(self) -> dict[str, Any]:
        """For a result's settings."""
        return {"count": self.count, "devices": self.devices}


@contextlib.contextmanager
def quiet_but_first() -> Iterator[None]:
    """Inside, only the first process prints."""
    if is_first():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):  # noqa: PTH123
        yield
