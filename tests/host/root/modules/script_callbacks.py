"""Callbacks by category. An exception in one is noted and the next one runs."""

import sys
from dataclasses import dataclass
from typing import Any

from modules import errors

CATEGORIES = (
    "app_started",
    "before_reload",
    "script_unloaded",
    "before_ui",
    "ui_settings",
    "model_loaded",
    "cfg_denoiser",
    "cfg_denoised",
    "cfg_after_cfg",
    "infotext_pasted",
)
BACKWARDS = ("script_unloaded", "before_ui")
callbacks: dict[str, list[tuple[str, Any]]] = {category: [] for category in CATEGORIES}


class CFGDenoiserParams:
    def __init__(self, x, image_cond, sigma, sampling_step, total_sampling_steps, text_cond, text_uncond, denoiser=None):
        self.x, self.image_cond, self.sigma = x, image_cond, sigma
        self.sampling_step, self.total_sampling_steps = sampling_step, total_sampling_steps
        self.text_cond, self.text_uncond = text_cond, text_uncond
        self.denoiser = denoiser


@dataclass
class CFGDenoisedParams:
    x: Any
    sampling_step: int
    total_sampling_steps: int
    inner_model: Any


@dataclass
class AfterCFGCallbackParams:
    x: Any
    sampling_step: int
    total_sampling_steps: int


def _registrar(category):
    def register(callback, *, name=None):
        callbacks[category].append((sys._getframe(1).f_code.co_filename, callback))

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
