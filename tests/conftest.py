"""Errors of our own code are raised, methods act on tiny models too, property tests draw the same examples on every run."""

import gc
import os
import pathlib
import sys

from hypothesis import HealthCheck, settings

os.environ["ACCEL_STRICT"] = "1"
os.environ["ACCEL_AUTO"] = "0"
# Every page that is built would tell its makers so, and ask them for a newer version: two requests and two threads.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# Every host imports the extension anew: its files are compiled once, here and in processes that tests start, whatever the machine says.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

settings.register_profile("accel", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("accel")


def pytest_configure() -> None:
    """Tests count and look by hooks of their own, which nothing has to stand down for."""
    from lib_accel.backends import known

    known.TORCH_HOOKS.update(path.stem for path in pathlib.Path(__file__).parent.rglob("*.py"))


def pytest_collection_finish() -> None:
    """What the libraries and the tests' files hold stays for good. Looking through it again and again takes a fifth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
