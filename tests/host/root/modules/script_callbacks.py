"""Callbacks by category. An exception in one is noted and the next one runs."""

import sys
from dataclasses import field, make_dataclass
from typing import Any, NamedTuple

from modules import errors

BEFORE_JOBS = ("app_started", "before_reload", "script_unloaded", "before_ui", "model_loaded")
CATEGORIES = (*BEFORE_JOBS, "cfg_denoiser", "cfg_denoised", "cfg_after_cfg", "infotext_pasted")
BACKWARDS = ("script_unloaded", "before_ui")


class ScriptCallback(NamedTuple):
    script: str
    callback: Any


callbacks: dict[str, list[ScriptCallback]] = {category: [] for category in CATEGORIES}
callback_map = {f"callbacks_{category}": registered for category, registered in callbacks.items()}

_steps = ["sampling_step", "total_sampling_steps"]
_by_whom = ("denoiser", Any, field(default=None))
CFGDenoiserParams = make_dataclass("CFGDenoiserParams", ["x", "image_cond", "sigma", *_steps, "text_cond", "text_uncond", _by_whom])
CFGDenoisedParams = make_dataclass("CFGDenoisedParams", ["x", *_steps, "inner_model"])
AfterCFGCallbackParams = make_dataclass("AfterCFGCallbackParams", ["x", *_steps])


def _registrar(category):
    def register(callback, *, name=None):
        callbacks[category].append(ScriptCallback(sys._getframe(1).f_code.co_filename, callback))

    return register


for _category in CATEGORIES:
    globals()[f"on_{_category}"] = _registrar(_category)


def dispatch(category, *args):
    registered = callbacks[category]
    for file, callback in reversed(registered) if category in BACKWARDS else list(registered):
        try:
            callback(*args)
        except Exception:
            errors.report(f"{category} for {file}", exc_info=True)


def clear_callbacks():
    for registered in callbacks.values():
        registered.clear()


def remove_callbacks_for_function(func):
    for registered in callbacks.values():
        registered[:] = [entry for entry in registered if entry[1] != func]
