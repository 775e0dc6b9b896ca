"""The host's callbacks, registered once however often the script file is executed."""

from __future__ import annotations

from typing import Any

from modules import script_callbacks

from . import api, axes
from .jobs.session import SESSION
from .prompt_to_prompt.controls import restore_source


def on_cfg_denoiser(params: Any) -> None:
    SESSION.step(params)


def come_last() -> None:
    """A pass begins: from here on others' callbacks have had a step when ours takes rows away. Most are registered when a job begins."""
    script_callbacks.remove_callbacks_for_function(on_cfg_denoiser)
    script_callbacks.on_cfg_denoiser(on_cfg_denoiser)


def on_cfg_after_cfg(params: Any) -> None:
    SESSION.after_step(params)


def on_infotext_pasted(infotext: str, params: dict[str, Any]) -> None:
    restore_source(params)


def on_model_loaded(model: Any) -> None:
    SESSION.model_loaded()


def on_script_unloaded() -> None:
    SESSION.sweep()


def on_before_ui() -> None:
    axes.add()


def on_app_started(demo: Any, app: Any) -> None:
    api.add_routes(demo, app)


ALL = (on_cfg_denoiser, on_cfg_after_cfg, on_infotext_pasted, on_model_loaded, on_script_unloaded, on_before_ui, on_app_started)


def register() -> None:
    """Register all callbacks. The host forgets them when it reloads its UI, and keeps them when it reloads script bodies only."""
    for callback in ALL:
        script_callbacks.remove_callbacks_for_function(callback)
        getattr(script_callbacks, callback.__name__)(callback)
    # With --nowebui the host asks its plot for the axes before it says that a page will be built. Its own scripts are loaded first.
    axes.add()
