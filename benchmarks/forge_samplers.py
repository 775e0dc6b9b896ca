"""`quality` with samplers that only the Forge family has: `python benchmarks/forge_samplers.py --sampler "ER SDE" ...`.

Takes what `python -m lib_accel quality` takes. Samplers: Res Multistep, ER SDE, each also with " Karras" behind it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


@contextmanager
def listed() -> Iterator[None]:
    """Inside, the command line and Forecast know both samplers."""
    import diffusers

    from benchmarks.lab.forge_samplers import ERSDEScheduler, ResMultistepScheduler
    from lib_accel.cli import samplers
    from lib_accel.core import scheduler_classes

    even = {"timestep_spacing": "linspace"}
    with ExitStack() as stack:
        for name, kind in (("Res Multistep", ResMultistepScheduler), ("ER SDE", ERSDEScheduler)):
            # Only classes of diffusers are known by their names.
            kind.__module__ = "diffusers.schedulers"
            made = {name: (kind.__name__, even), f"{name} Karras": (kind.__name__, even | {"use_karras_sigmas": True})}
            stack.enter_context(patch.object(diffusers, kind.__name__, kind, create=True))
            stack.enter_context(patch.dict(scheduler_classes.CLASSES, {kind.__name__: name}))
            stack.enter_context(patch.dict(samplers.SAMPLERS, made))
        yield


def main(argv: list[str]) -> int:
    from lib_accel.cli.main import main as accel

    with listed():
        return accel(["quality", *argv])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
