"""A script is executed under its file name and is not put among the imported modules."""

import importlib.util
from pathlib import Path

loaded_scripts = {}


def load_module(path):
    spec = importlib.util.spec_from_file_location(Path(path).name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded_scripts[path] = module
    return module
