"""`quality` with samplers that only the Forge family has: `python benchmarks/forge_samplers.py --sampler "ER SDE" ...`.

Takes what `python -m lib_accel quality` takes. Samplers: Res Multistep, ER SDE, each also with " Karras" behind it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main(argv: list[str]) -> int:
    import diffusers

    from benchmarks.lab import forge_samplers
    from lib_accel.cli import samplers
    from lib_accel.cli.main import main as accel
    from lib_accel.core import scheduler_classes

    for name, kind in (("Res Multistep", forge_samplers.ResMultistepScheduler), ("ER SDE", forge_samplers.ERSDEScheduler)):
        setattr(diffusers, kind.__name__, kind)
        # Only those of diffusers are known by their names.
        kind.__module__ = "diffusers.schedulers"
        scheduler_classes.CLASSES[kind.__name__] = name
        even = {"timestep_spacing": "linspace"}
        samplers.SAMPLERS[name] = (kind.__name__, even)
        samplers.SAMPLERS[f"{name} Karras"] = (kind.__name__, even | {"use_karras_sigmas": True})
    return accel(["quality", *argv])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
