"""Run by the WebUI at every start. Accel needs nothing that the WebUI does not bring, and leaves every package as it is."""

import importlib.util

if importlib.util.find_spec("torch") is None:
    print("Accel: torch is missing from this Python; the extension will not load.")
