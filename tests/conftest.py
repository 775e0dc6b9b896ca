"""Errors of our own code are raised, methods act on tiny models too, property tests draw the same examples on every run."""

import os

from hypothesis import HealthCheck, settings

os.environ["ACCEL_STRICT"] = "1"
os.environ["ACCEL_AUTO"] = "0"

settings.register_profile("accel", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("accel")
