"""Runs the project's `scripts/*.py` in the host double: loads them, builds the tabs, runs jobs, grids and API-shaped calls, reloads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gradio as gr
import models
import numpy as np
import torch

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
ROOT, NEIGHBOUR = HERE / "root", HERE / "neighbour"
# What knows the host that it was imported with.
OF_ONE_HOST = ("modules", "launch", "lib_accel.webui")


def _forget() -> None:
    for name in [n for n in sys.modules if any(n == host or n.startswith(host + ".") for host in OF_ONE_HOST)]:
        del sys.modules[name]
    import lib_accel

    vars(lib_accel).pop("webui", None)


class Host:
    """One host from start to end. extension: whether ours is installed. version: (1, 10), (1, 9) or (1, 7)."""

    def __init__(self, data: Path, extension: bool = True, version: tuple[int, int] = (1, 10)) -> None:
        _forget()
        sys.path.insert(0, str(ROOT))
        from ldm.modules.diffusionmodules.openaimodel import UNetModel
        from modules import errors, paths, processing, script_callbacks, scripts, sd_hijack, sd_models, sd_unet, shared

        self.unet_class, self.errors, self.shared, self.scripts = UNetModel, errors, shared, scripts
        self.processing, self.callbacks, self.hijack, self.sd_unet, self.sd_models = (
            processing,
            script_callbacks,
            sd_hijack,
            sd_unet,
            sd_models,
        )
        paths.data_path = str(data)
        sd_hijack.apply_optimizations()
        sd_unet.install(UNetModel)
        sd_models.model_data.make = lambda: self.model()
        self._of_version(version)
        self.folders = [ROOT, NEIGHBOUR] + ([PROJECT] if extension else [])
        self.start()

    def _of_version(self, version: tuple[int, int]) -> None:
        from modules.sd_samplers_cfg_denoiser import CFGDenoiser

        missing = {(1, 9): ["process_before_every_sampling"], (1, 7): ["process_before_every_sampling", "post_sample"]}.get(version, [])
        CFGDenoiser.tells_denoiser = version >= (1, 8)
        for moment in missing:
            delattr(self.scripts.Script, moment)
            setattr(self.scripts.ScriptRunner, moment, lambda self, p, *args, **given: None)

    def model(self, seed: int = 0, name: str = "tiny", conditioning_key: str = "crossattn", **shape: Any) -> torch.nn.Module:
        """A model that `switch_to` can make the current one."""
        if conditioning_key == "hybrid":
            shape["in_channels"] = 9
        return self.sd_models.Model(models.ldm_unet(seed, **shape), name, conditioning_key).eval()

    def start(self) -> None:
        """Load the scripts and build both tabs."""
        self.scripts.load_scripts(self.folders)
        self.callbacks.dispatch("before_ui")
        self.runners = {}
        with gr.Blocks() as self.demo:
            for tab, is_img2img in (("txt2img", False), ("img2img", True)):
                runner = self.runners[tab] = self.scripts.ScriptRunner(is_img2img)
                runner.setup_ui()

    def reload(self) -> None:
        """Reload UI: the scripts' files are executed again, what they imported stays as it is."""
        self.callbacks.dispatch("before_reload")
        self.callbacks.dispatch("script_unloaded")
        self.start()

    def stop(self) -> None:
        self.hijack.undo()
        self.sd_unet.uninstall(self.unet_class)
        sys.path.remove(str(ROOT))
        _forget()

    def script(self, tab: str = "txt2img", title: str = "Accel") -> Any:
        return self.runners[tab].script(title)

    def module(self, title: str) -> Any:
        """The module of a script's file."""
        return next(data.module for data in self.scripts.scripts_data if data.script_class().title() == title)

    def args(self, tab: str, accel: Any = None) -> list[Any]:
        """Arguments of all scripts as an API call makes them: defaults from a `ui` called once more, then what was sent."""
        runner = self.runners[tab]
        args: list[Any] = [None] * len(runner.inputs)
        args[0] = 0
        with gr.Blocks():
            for script in runner.scripts:
                made = script.ui(script.is_img2img)
                args[script.args_from : script.args_to] = [control.value for control in made or []]
        if accel is not None:
            sent = accel if isinstance(accel, list) else [accel]
            ours = self.script(tab)
            for i, value in enumerate(sent[: ours.args_to - ours.args_from]):
                args[ours.args_from + i] = value
        return args

    def p(self, tab: str = "txt2img", accel: Any = None, **fields: Any) -> Any:
        made = self.processing.StableDiffusionProcessingImg2Img if tab == "img2img" else self.processing.StableDiffusionProcessingTxt2Img
        p = made(**({"prompt": "a red cat"} | fields))
        p.scripts, p.script_args = self.runners[tab], tuple(self.args(tab, accel))
        return p

    def job(self, tab: str = "txt2img", accel: Any = None, **fields: Any) -> Any:
        """Run a job through to its `Processed`."""
        p = self.p(tab, accel, **fields)
        self.shared.state.begin("job")
        return p.scripts.run(p, *p.script_args) or self.processing.process_images(p)

    def grid(self, x: str, x_values: str, y: str = "Nothing", y_values: str = "", accel: Any = None, **fields: Any) -> Any:
        """Run an X/Y/Z plot over two axes, by label."""
        p = self.p("txt2img", accel, **fields)
        plot = self.script("txt2img", "X/Y/Z plot")
        labels = [option.label for option in plot.current_axis_options]
        args = list(p.script_args)
        args[0] = p.scripts.selectable_scripts.index(plot) + 1
        args[plot.args_from : plot.args_to] = [labels.index(x), labels.index(y), x_values, y_values]
        p.script_args = tuple(args)
        self.shared.state.begin("job")
        return p.scripts.run(p, *p.script_args)


def pixels(processed: Any) -> list[np.ndarray]:
    return [np.asarray(image) for image in processed.images]


def same(one: Any, other: Any) -> bool:
    """Whether two jobs made the same pictures, bit for bit."""
    return len(one.images) == len(other.images) > 0 and all(np.array_equal(a, b) for a, b in zip(pixels(one), pixels(other)))
