"""Runs the project's `scripts/*.py` in the host double: loads them, builds the tabs, runs jobs, grids and API-shaped calls, reloads."""

from __future__ import annotations

import contextlib
import functools
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forge_face
import gradio as gr
import gradio.blocks
import gradio.routes
import gradio.utils
import models
import numpy as np
import torch
from gradio.blocks import postprocess_update_dict
from gradio.context import Context

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
ROOT, NEIGHBOUR = HERE / "root", HERE / "neighbour"
# A tab's web server takes a tenth of the time of a test, and nobody here opens the page. What the page would be given takes as long, and
# so does the line of code that a warning of an old argument would name. Every page would make its colours anew.
gradio.routes.App.create_app = staticmethod(lambda blocks, **given: None)
gr.Blocks.get_config_file = lambda blocks: {}
gradio.utils.find_user_stack_level = lambda: 1
gr.themes.ThemeClass._get_theme_css = lambda theme: ""
gradio.blocks.DefaultTheme = functools.cache(gr.themes.Default)
# What knows the host that it was imported with.
OF_ONE_HOST = ("modules", "lib_accel.webui")


class Blockless(torch.nn.Module):
    """A network of another kind, such as SD3's: no U-Net and no transformer block that anybody here knows."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, x: torch.Tensor, timesteps: Any = None, context: Any = None, y: Any = None) -> torch.Tensor:
        return x * self.weight


def _forget() -> None:
    inside = tuple(host + "." for host in OF_ONE_HOST)
    for name in [n for n in sys.modules if n in OF_ONE_HOST or n.startswith(inside)]:
        del sys.modules[name]
    import lib_accel

    vars(lib_accel).pop("webui", None)


class Tabs(dict):
    """Tab -> its runner. A tab takes long to build, and most tests look at one: it is built when it is first asked for."""

    def __init__(self, build: Callable[[str], Any]) -> None:
        super().__init__()
        self._build = build

    def __missing__(self, tab: str) -> Any:
        self[tab] = self._build(tab)
        return self[tab]

    def build_all(self) -> None:
        for tab in ("txt2img", "img2img"):
            self[tab]


@contextlib.contextmanager
def _before_all_jobs() -> Iterator[None]:
    """What hosts do when they start, here when a test first needs it: gradio's draws are none that a job would find."""
    drawn = random.getstate()
    try:
        yield
    finally:
        random.setstate(drawn)


class Host:
    """One host from start to end. extension: whether ours is installed. version: (1, 7) to (1, 10). defaults: the file of defaults.

    forge: as one of the Forge family; see `forge_face`.
    """

    def __init__(
        self, data: Path, extension: bool = True, version: tuple[int, int] = (1, 10), defaults: dict | None = None, forge: bool = False
    ) -> None:
        _forget()
        self.forge = forge
        sys.path.insert(0, str(ROOT))
        import sgm_twin
        from ldm.modules.diffusionmodules.openaimodel import UNetModel
        from modules import errors, paths, processing, script_callbacks, scripts, sd_hijack, sd_models, sd_unet, shared, ui_loadsave

        self.errors, self.shared, self.scripts, self.processing = errors, shared, scripts, processing
        self.callbacks, self.hijack, self.sd_unet, self.sd_models = script_callbacks, sd_hijack, sd_unet, sd_models
        self.loadsave, self._defaults = ui_loadsave, dict(defaults or {})
        paths.data_path = str(data)
        sd_hijack.apply_optimizations()
        sd_unet.install(UNetModel)
        sd_unet.install(sgm_twin.UNetModel)
        sd_models.model_data.make = lambda: self.model()
        self._of_version(version)
        if forge:
            forge_face.install(self)
        self.folders = [ROOT, NEIGHBOUR] + ([PROJECT] if extension else [])
        self.start()

    def _of_version(self, version: tuple[int, int]) -> None:
        from modules.sd_samplers_cfg_denoiser import CFGDenoiser

        missing = ["process_before_every_sampling"] * (version < (1, 10))
        missing += ["post_sample", "postprocess_image_after_composite"] * (version < (1, 8))
        CFGDenoiser.tells_denoiser = version >= (1, 8)
        for moment in missing:
            delattr(self.scripts.Script, moment)
            setattr(self.scripts.ScriptRunner, moment, lambda self, p, *args, **given: None)

    def model(self, seed: int = 0, name: str = "tiny", conditioning_key: str = "crossattn", kind: str = "sd1", **shape: Any) -> Any:
        """A model that `switch_to` can make the current one. kind: ``sd1`` | ``sd2`` | ``sdxl`` | ``sd3`` (without blocks)."""
        if self.forge:
            return forge_face.model(self.sd_models, seed, name, kind=kind, **shape)
        if conditioning_key == "hybrid":
            shape["in_channels"] = 9
        make = {"sd1": models.ldm_unet, "sd2": models.ldm_unet_sd2, "sdxl": models.sgm_unet, "sd3": Blockless}[kind]
        width = shape.get("context_dim", models.WIDTH)
        return self.sd_models.Model(make(seed, **shape), name, conditioning_key, kind, width).eval()

    def start(self) -> None:
        """Load the scripts. Tabs are built when they are first asked for."""
        self.scripts.load_scripts(self.folders)
        self.callbacks.dispatch("before_ui")
        self.runners, self._usual = Tabs(self._build), {}
        self._blocks = gr.Blocks()

    def _build(self, tab: str) -> Any:
        """The runner of ``tab``, whose page is built: on the host's page, also where a test that asks for it builds one of its own."""
        runner = self.scripts.ScriptRunner(tab == "img2img")
        others, Context.root_block, Context.block = (Context.root_block, Context.block), None, None
        try:
            with _before_all_jobs(), self._blocks:
                with gr.Group() as group:
                    runner.setup_ui()
                self.loadsave.add_block(group, tab, self._defaults)
        finally:
            Context.root_block, Context.block = others
        return runner

    @property
    def demo(self) -> gr.Blocks:
        """The whole page."""
        self.runners.build_all()
        return self._blocks

    @property
    def defaults(self) -> dict:
        """What `ui-config.json` holds when the whole page is built."""
        self.runners.build_all()
        return self._defaults

    def reload(self) -> None:
        """Reload UI: the scripts' files are executed again, what they imported stays as it is, and the whole page is built."""
        self.callbacks.dispatch("before_reload")
        self.callbacks.dispatch("script_unloaded")
        self.start()
        self.runners.build_all()

    def stop(self) -> None:
        self.hijack.undo()
        self.sd_unet.uninstall()
        if self.forge:
            forge_face.uninstall()
        sys.path.remove(str(ROOT))
        _forget()

    def script(self, tab: str = "txt2img", title: str = "Accel") -> Any:
        return self.runners[tab].script(title)

    def module(self, title: str) -> Any:
        """The module of a script's file."""
        return next(data.module for data in self.scripts.scripts_data if data.script_class().title() == title)

    def args(self, tab: str, accel: Any = None) -> list[Any]:
        """Arguments of all scripts as an API call makes them: the defaults, then what was sent."""
        if tab not in self._usual:
            with _before_all_jobs():
                self._usual[tab] = self._asked_of_scripts(self.runners[tab])
        args = list(self._usual[tab])
        if accel is not None:
            sent = accel if isinstance(accel, list) else [accel]
            ours = self.script(tab)
            for i, value in enumerate(sent[: ours.args_to - ours.args_from]):
                args[ours.args_from + i] = value
        return args

    def _asked_of_scripts(self, runner: Any) -> list[Any]:
        """As the API makes them when it starts: of a `ui` called once more."""
        args: list[Any] = [None] * len(runner.inputs)
        args[0] = 0
        with gr.Blocks():
            for script in runner.scripts:
                made = script.ui(script.is_img2img)
                args[script.args_from : script.args_to] = [control.value for control in made or []]
        return args

    def page(self) -> dict[str, dict[str, Any]]:
        """What a page shows that has just opened: the components' properties by element id, after the events of loading."""
        blocks = {block._id: dict(vars(block)) for block in self.demo.blocks.values()}
        for event, function in zip(self.demo.dependencies, self.demo.fns):
            if (event["trigger"], event["targets"]) == ("load", []):
                for output, update in zip(event["outputs"], function.fn(*[blocks[i]["value"] for i in event["inputs"]])):
                    blocks[output].update(postprocess_update_dict(self.demo.blocks[output], update, postprocess=False))
        return {block["elem_id"]: block for block in blocks.values() if block.get("elem_id")}

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
