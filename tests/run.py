"""Install what the tests need into this Python's environment, run the tests, check the style: `python tests/run.py [pytest options]`."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Its pins are years old and fight with everything; only its `ldm` package is used.
WITHOUT_DEPENDENCIES = "stable-diffusion-sdkit==2.1.5"


def main() -> int:
    constraints = ROOT / "constraints.txt"
    with tempfile.TemporaryDirectory() as folder:
        if _installed("torch"):
            # A torch that is already there was chosen for this machine's devices: it stays.
            kept = [line for line in constraints.read_text().splitlines() if not line.startswith("torch==")]
            constraints = Path(folder) / "constraints.txt"
            constraints.write_text("\n".join([*kept, f"torch=={importlib.metadata.version('torch')}"]) + "\n")
        # Most files of these packages are never imported; Python compiles those that are.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        subprocess.check_call([*pip, "--constraint", str(constraints), "ruff", "--editable", f"{ROOT}[demo,test]"])
        subprocess.check_call([*pip, "--no-deps", WITHOUT_DEPENDENCIES])
    os.chdir(ROOT)
    tests = subprocess.call([sys.executable, "-m", "pytest", *_side_by_side(), *sys.argv[1:]])
    # Last, so that what is wrong with the style stands below the tests' long output and not above it.
    style = subprocess.call([sys.executable, "-m", "ruff", "check", "."])
    style |= subprocess.call([sys.executable, "-m", "ruff", "format", "--check", "."])
    return tests or style


def _side_by_side() -> list[str]:
    """pytest's options for one process per processor, of one thread each: threads of several processes wait for each other."""
    if any(option.startswith(("-n", "--numprocesses", "--collect-only", "--co")) for option in sys.argv[1:]):
        return []
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # All processes have to collect the same tests in the same order.
    os.environ.setdefault("PYTHONHASHSEED", "0")
    return ["-n", str(os.cpu_count() or 1), "--dist", "worksteal"]


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main())
