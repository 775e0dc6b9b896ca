"""The host's small modules, made here; the larger ones are files."""

import importlib.util
import re
import sys
import types
from contextlib import nullcontext
from pathlib import Path

import torch


def _module(name, **contents):
    made = sys.modules[f"{__name__}.{name}"] = types.ModuleType(f"{__name__}.{name}")
    vars(made).update(contents)
    return made


# The host swallows exceptions of scripts and callbacks; the double keeps them for assertions: (message, error).
_reports: list[tuple[str, BaseException | None]] = []
_loaded: dict[str, types.ModuleType] = {}


def _report(message, *, exc_info=False):
    _reports.append((message, sys.exc_info()[1]))


def _display(error, task, *, full_traceback=False):
    _reports.append((task, error))


def _load_module(path):
    """A script is executed under its file name and is not put among the imported modules."""
    spec = importlib.util.spec_from_file_location(Path(path).name, path)
    _loaded[path] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(_loaded[path])
    return _loaded[path]


def _apply_hypernetworks(hypernetworks, context, layer=None):
    """(input of to_k, input of to_v). A network of the double is a function of the context."""
    keys = values = context
    for network in hypernetworks:
        keys, values = network(keys), network(values)
    return keys, values


_cpu = torch.device("cpu")
errors = _module("errors", reports=_reports, report=_report, display=_display)
script_loading = _module("script_loading", loaded_scripts=_loaded, load_module=_load_module)
devices = _module("devices", cpu=_cpu, device=_cpu, autocast=lambda disable=False: nullcontext(), torch_gc=lambda: None)
# What was saved: (picture, folder, name, more).
_saved: list[tuple] = []
images = _module("images", saved=_saved, save_image=lambda image, path, basename, **more: _saved.append((image, path, basename, more)))
_TAG = r"<\w+:[^>]+>"
extra_networks = _module("extra_networks", parse_prompt=lambda prompt: (re.sub(_TAG, "", prompt), re.findall(_TAG, prompt)))
# Set by the harness.
paths = _module("paths", data_path="")
hypernetworks = _module("hypernetworks")
hypernetworks.hypernetwork = _module("hypernetworks.hypernetwork", apply_hypernetworks=_apply_hypernetworks)
